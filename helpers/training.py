"""What ``SFTTrainer`` needs on this hardware, and where adapters are kept.

Introduced in lesson 04. The configuration itself (``LoraConfig``, ``SFTConfig``, ``trainer.train()``) stays in the
notebook; here is only what a two-core machine wants from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from transformers import TrainerCallback
from trl import SFTTrainer

from helpers import runtime


def hardware_arguments(profile: runtime.Profile) -> dict:
    """The ``SFTConfig`` arguments that follow from the profile, not from the lesson.

    On the CPU: no GPU, weights already in their dtype (so no autocast), no checkpointing (memory is not short,
    time is). On CUDA: autocast in the profile's dtype. ``SFTConfig()`` alone raises on a machine without a GPU.
    """
    cpu = profile.device == "cpu"
    return {
        "use_cpu": cpu,
        "bf16": not cpu and profile.dtype == "bfloat16",
        "fp16": not cpu and profile.dtype == "float16",
        "gradient_checkpointing": profile.quantized,
        "train_sampling_strategy": "group_by_length",
        "dataloader_pin_memory": not cpu,
        "report_to": "none",
    }


class LeanSFTTrainer(SFTTrainer):
    """``SFTTrainer`` that projects onto the vocabulary only where a token carries loss.

    Two thirds of our tokens are prompt. Without a GPU, TRL computes 49,152 logits for each of them and throws
    them away; this trainer selects the labelled positions first. The loss is the same: the mean cross-entropy
    over completion tokens (a unit test compares loss and gradients). On CUDA, TRL's own fused path is kept.
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        import torch
        import torch.nn.functional as F

        if return_outputs or self.args.device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        causal_lm = getattr(model, "get_base_model", lambda: model)()
        hidden = causal_lm.model(
            input_ids=inputs["input_ids"], use_cache=False
        ).last_hidden_state
        labels = inputs["labels"][:, 1:]
        keep = labels != -100
        logits = causal_lm.lm_head(hidden[:, :-1][keep]).float()
        count = keep.sum() if num_items_in_batch is None else num_items_in_batch
        loss = F.cross_entropy(logits, labels[keep], reduction="sum") / torch.as_tensor(count).clamp(min=1)
        mode = "train" if model.training else "eval"
        self._total_train_tokens += int(inputs["attention_mask"].sum()) if mode == "train" else 0
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        return loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        import torch

        with torch.no_grad():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None
