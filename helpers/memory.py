"""How much memory a training run needs, counted from the model's shape before anything is loaded.

Every array that a step holds is counted in bytes; ``estimate`` says in which moment of the step they add up to the most.
Sources: "Anatomy of a model's operations and memory" in the transformers documentation (weights, gradients, optimiser),
Korthikanti et al. 2022, arXiv 2205.05198, section 4 (activations; recounted for Llama's layer in ``layer_bytes``), Dettmers et
al. 2023, arXiv 2305.14314, section 3 (nf4 and its constants), Hu et al. 2021, arXiv 2106.09685 (adapters). GB is 10^9 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

METHODS = ("full", "lora", "qlora")
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BLOCK_ROWS = 128  # positions scored at a time by helpers.training.completion_loss
LOGIT_BYTES = 12  # float32 logits, a shifted copy of them and their log-softmax: 3 x 4 bytes


@dataclass(frozen=True)
class Shape:
    """The figures of a Llama-like decoder's ``config.json`` that decide its size."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    head_dim: int
    tied: bool
    qk_norm: bool = False

    @classmethod
    def from_config(cls, config) -> Shape:
        """The shape in a transformers configuration of the Llama, Mistral or Qwen3 family (no biases)."""
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=heads,
            kv_heads=config.num_key_value_heads,
            vocab=config.vocab_size,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            tied=bool(config.tie_word_embeddings),
            qk_norm=config.model_type.startswith("qwen3"),
        )

    def linears(self) -> dict[str, tuple[int, int]]:
        """(out, in) of each of a layer's seven matrices."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes = [(q, self.hidden), (kv, self.hidden), (kv, self.hidden), (self.hidden, q)]
        shapes += [(self.intermediate, self.hidden)] * 2 + [(self.hidden, self.intermediate)]
        return dict(zip(LINEAR, shapes))

    @property
    def linear_parameters(self) -> int:
        """Entries of all layers' matrices: what QLoRA quantises (not the embedding, not the head)."""
        return self.layers * sum(out * into for out, into in self.linears().values())

    @property
    def parameters(self) -> int:
        """All weights: embedding, layers with their norms, last norm, and the head where it is not the embedding."""
        norms = self.layers * (2 * self.hidden + 2 * self.head_dim * self.qk_norm) + self.hidden
        return self.vocab * self.hidden * (1 if self.tied else 2) + self.linear_parameters + norms


# The public config.json files of these models on the Hugging Face hub (Llama's: of ungated copies).
SHAPES = {
    "SmolLM2-135M": Shape(30, 576, 1536, 9, 3, 49152, 64, True),
    "SmolLM2-360M": Shape(32, 960, 2560, 15, 5, 49152, 64, True),
    "SmolLM2-1.7B": Shape(24, 2048, 8192, 32, 32, 49152, 64, True),
    "Llama-3.2-3B": Shape(28, 3072, 8192, 24, 8, 128256, 128, True),
    "Qwen3-4B": Shape(36, 2560, 9728, 32, 8, 151936, 128, True, qk_norm=True),
    "Llama-2-7B": Shape(32, 4096, 11008, 32, 32, 32000, 128, False),
    "Mistral-7B": Shape(32, 4096, 14336, 32, 8, 32000, 128, False),
    "Llama-3.1-8B": Shape(32, 4096, 14336, 32, 8, 128256, 128, False),
}
# Memory of the cards in GB, as their makers round it; part of it belongs to the driver and the allocator's slack.
CARDS = {"T4": 15, "L4": 24, "A100 40 GB": 40, "A100 80 GB": 80}


@dataclass(frozen=True)
class Memory:
    """What a step holds, in bytes, part by part; ``peak`` is the most that is held at one moment.

    ``weights``, ``adapters`` and ``optimizer`` are there all the time. ``activations`` and ``logits`` are largest when the backward
    pass begins, ``gradients`` and ``update`` (the optimiser's scratch space) when the weights are updated. ``layer`` is what one layer
    needs while its gradients are computed; with gradient checkpointing that includes all it had dropped.
    """

    weights: float
    adapters: float
    optimizer: float
    gradients: float
    activations: float
    logits: float
    layer: float
    update: float
    accumulates: bool = False

    def moments(self) -> dict[str, float]:
        """Bytes held at the two moments that can be the peak of a step."""
        held = self.weights + self.adapters + self.optimizer
        kept = self.gradients if self.accumulates else 0  # of the batches before
        return {
            "backward begins": held + kept + self.activations + max(self.logits, self.layer),
            "weights are updated": held + self.gradients + max(self.update, self.layer),
        }

    @property
    def peak(self) -> float:
        """The largest of ``moments()``, in bytes."""
        return max(self.moments().values())

    @property
    def gb(self) -> float:
        """``peak`` in GB."""
        return self.peak / 1e9

    def __str__(self) -> str:
        moments = self.moments()
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "accumulates"}
        parts |= {f"-> {name}": value for name, value in moments.items()}
        lines = [f"{name:24}{value / 1e9:8.3f} GB" for name, value in parts.items()]
        return "\n".join([*lines, f"peak {self.gb:.2f} GB, when {max(moments, key=moments.get)}"])


def adapter_parameters(shape: Shape, rank: int, targets=LINEAR, layers: int | None = None) -> int:
    """Entries of the two LoRA matrices of each target: rank x (in + out), in ``layers`` layers (all of them by default)."""
    pairs = sum(sum(shape.linears()[name]) for name in targets)
    return rank * pairs * (shape.layers if layers is None else layers)


def weight_bytes(shape: Shape, method: str, width: int = 2, double_quant: bool = True) -> float:
    """Bytes of the model's weights at ``width`` bytes each; for "qlora" the layers' matrices take nf4's half byte.

    nf4 keeps one scale for 64 weights: 4 bytes, or 1 byte with double quantisation, whose own 4-byte scales serve 256
    each (QLoRA paper, section 3: 0.5 and 0.127 bits a weight).
    """
    if method != "qlora":
        return shape.parameters * width
    nf4 = 0.5 + ((1 + 4 / 256) / 64 if double_quant else 4 / 64)
    return shape.linear_parameters * nf4 + (shape.parameters - shape.linear_parameters) * width


def layer_bytes(
    shape: Shape,
    method: str,
    width: int = 2,
    adapter_width: int = 4,
    rank: int = 16,
    targets=LINEAR,
    dropout: bool = False,
    autocast: bool = False,
) -> float:
    """Bytes that one layer keeps for its backward pass, for each token; ``width`` is that of weights and activations.

    Counted on transformers' Llama layer with scaled-dot-product attention: both norms' inputs in float32 and, where their
    weights are trained, what they scale; q, k, v and the attention's output; gate, its activation and up; the input of each matrix that is
    trained or adapted. An adapter of another width than the layer keeps its own copy of the input, and so does one
    with dropout, with a mask of a byte an entry (on CUDA). Under ``autocast`` the copies are as wide as the layer. A unit test holds this against what PyTorch's autograd really saves.
    """
    h, f = shape.hidden, shape.intermediate
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    inputs = {name: into for name, (_, into) in shape.linears().items()}
    total = 2 * (4 * h + 4) + width * (2 * q + 2 * kv) + 4 * shape.heads + width * 3 * f
    if shape.qk_norm:
        total += 4 * (q + kv + shape.heads + shape.kv_heads)
    if method == "full":
        return total + width * (4 * h + f + (q + kv if shape.qk_norm else 0))
    total += adapter_width * rank * len(targets)
    if dropout or adapter_width != width:
        copy = width if autocast else adapter_width
        return total + sum((copy + bool(dropout)) * inputs[name] for name in targets)
    groups = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}, {"down_proj"})
    return total + width * sum(inputs[min(g)] for g in groups if g & set(targets))


def estimate(
    shape: Shape,
    method: str,
    batch: int = 8,
    length: int = 512,
    *,
    rank: int = 16,
    targets=LINEAR,
    first_layer: int = 0,
    width: int = 2,
    adapter_width: int = 4,
    optimizer: str = "adamw",
    checkpointing: bool = False,
    accumulates: bool = False,
    dropout: bool = False,
    double_quant: bool = True,
    graded: float | None = None,
    foreach: bool = True,
    autocast: bool = False,
) -> Memory:
    """The memory of one training step on ``batch`` rows padded to ``length`` tokens.

    - ``method``: "full" trains every weight, "lora" a pair of matrices of ``rank`` beside each of ``targets`` in the layers from
      ``first_layer`` up, "qlora" the same over weights in nf4.
    - ``width``, ``adapter_width``: bytes of a weight and an activation, and of an adapter's entry (PEFT's default is 4).
    - ``optimizer``: "adamw" keeps two states as wide as what is trained; "adamw_8bit" two of one byte; "master" is this workshop's
      ``MasterAdamW``: a float32 copy, two states and a gradient of 4 bytes each for every 2-byte weight.
    - ``checkpointing``: keep each layer's input alone and run the layer again when its gradient is due.
    - ``accumulates``: gradients of earlier batches lie there while the next is computed.
    - ``graded``: None scores every position at once (``LOGIT_BYTES`` for each vocabulary entry), as a plain trainer does; a share between 0 and
      1 is the part of positions with loss, scored in blocks by ``helpers.training.LeanSFTTrainer``.
    - ``foreach``: PyTorch's AdamW on CUDA works on all weights in one go and needs one more copy of them; on a CPU it takes one at
      a time (two scratch copies of the largest), and so does the fused kernel, transformers' default from torch 2.8 on.
    - ``autocast``: adapters in 32 bit multiply in 16, as under ``bf16=True`` on a GPU, so the copies of their inputs are in 16 bit.

    Not counted: the CUDA context, the allocator's slack, kernels' workspaces, the Python process. Raises ValueError for
    an unknown method, optimizer or target, and for numbers that make no sense.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; one of {', '.join(METHODS)}")
    trained_width = width if method == "full" else adapter_width
    states = {"adamw": 2 * trained_width, "adamw_8bit": 2, "master": 16}
    if optimizer not in states:
        raise ValueError(f"optimizer is {optimizer!r}; one of {', '.join(states)}")
    if not set(targets) <= set(LINEAR):
        raise ValueError(f"targets is {tuple(targets)}; only {', '.join(LINEAR)}")
    if min(batch, length, rank) < 1 or not 0 <= first_layer < shape.layers:
        raise ValueError(
            f"batch {batch}, length {length} and rank {rank} must be at least 1, and first_layer "
            f"({first_layer}) below the model's {shape.layers} layers"
        )
    full, tokens = method == "full", batch * length
    layers = shape.layers - first_layer * (not full)
    adapters = 0 if full else adapter_parameters(shape, rank, targets, layers)
    trained = shape.parameters if full else adapters
    embedding = shape.vocab * shape.hidden
    largest = embedding if full else rank * shape.intermediate
    scratch = 4 if optimizer == "master" else trained_width
    kept = layer_bytes(shape, method, width, adapter_width, rank, targets, dropout, autocast)
    # gradients in flight: of the gated product and both factors; or of the down matrix's input, by way of weight and adapter
    flight = 3 * width * shape.intermediate
    if not full and "down_proj" in targets:
        through = 2 * width + adapter_width * (2 if dropout else 1)
        flight = max(flight, through * shape.intermediate)
    # the last norm: its input in float32 and its output, and what it scales where it is trained
    last = tokens * shape.hidden * (4 + width + (width if full else 0))
    if graded is None:
        logits = LOGIT_BYTES * shape.vocab * tokens
    else:  # the picked positions and their gradients, a block of scores, the head's gradient twice
        logits = 2 * graded * tokens * shape.hidden * width
        logits += BLOCK_ROWS * shape.vocab * (4 + 2 * width) + 2 * embedding * width * full
    return Memory(
        weights=weight_bytes(shape, method, width, double_quant),
        adapters=adapters * adapter_width,
        optimizer=trained * states[optimizer],
        gradients=trained * trained_width,
        activations=last + tokens * layers * (shape.hidden * width if checkpointing else kept),
        logits=logits,
        layer=tokens * (flight + (kept if checkpointing else 0)),
        update=trained * scratch if foreach else 2 * largest * scratch,
        accumulates=accumulates,
    )
