"""What `opdiff verdict` judges: prompts as tokens, real runtimes loaded, and the candidates' graphs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..graphs.artifact import load_artifact
from ..graphs.decoding import Candidate, Contest
from ..graphs.errors import InputError
from ..graphs.leftovers import temporary_folder
from ..graphs.schedule.steps import WHOLE, Schedule
from .checkpoints import Checkpoint, open_checkpoint
from .export import export
from .prompts import prompts_of, read_prompts
from .runtimes.decoders import open_decoder
from .tokenizers import Tokenizer, open_tokenizer
from .tokenizers.beside import text_of
from .variants.registry import BUILDERS, VariantRequest, parse_variant

REFERENCE = "reference"
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ContestRequest:
    """What the user asked for.

    candidates: variants as for `export`, or paths of .onnx files. against: `hf`, `llama.cpp`; the first one's
    continuation is the path. prompts: a JSON file; None: the default prompts. folder: where the graphs are written and
    stay; None: they go with the contest. with_q8_0: whether to export the built-in candidates on Q8_0 weights too.
    schedule: in which steps candidates decode: whole, each prefix anew, or each, token by token with their own cache.
    """

    model: str
    candidates: tuple[str, ...]
    against: tuple[str, ...]
    prompts: Path | None
    n_steps: int
    folder: Path | None
    with_q8_0: bool
    schedule: Schedule = WHOLE


@contextmanager
def open_contest(request: ContestRequest, progress: Progress = lambda step: None) -> Iterator[Contest]:
    """Prepare everything; the real runtimes, and a folder that nobody named, last until the block ends.

    Raises:
        InputError: whatever of it cannot be used; nothing is exported before the rest is known to be usable.
    """
    entries = read_prompts(request.prompts)
    named = [_Asked(text, request.against, request.with_q8_0) for text in dict.fromkeys(request.candidates)]
    with ExitStack() as stack:
        folder = request.folder or stack.enter_context(temporary_folder())
        progress(f"reading {request.model}")
        checkpoint = open_checkpoint(request.model, folder)
        tokenizer = _tokenizer(checkpoint)
        prompts = tuple(prompts_of(entries, tokenizer, checkpoint, request.n_steps))
        longest = max(len(prompt.tokens) for prompt in prompts) + request.n_steps - 1
        references = []
        for runtime in dict.fromkeys(request.against):
            progress(f"loading {runtime}")
            references.append(stack.enter_context(open_decoder(runtime, checkpoint, longest)))
        candidates, reference_graph, notes = _exported(
            checkpoint, named, folder, progress, not request.schedule.is_whole
        )
        yield Contest(
            model=request.model,
            checkpoint=checkpoint.sha256,
            prompts=prompts,
            n_steps=request.n_steps,
            references=tuple(references),
            candidates=candidates,
            reference_graph=reference_graph,
            schedule=request.schedule,
            text=lambda ids: None if isinstance(tokenizer, InputError) else text_of(tokenizer, ids),
            notes=notes,
        )


class _Asked:
    """A candidate as the user asked for it: a graph that is there, or a variant to export, and its twin in Q8_0.

    Args:
        text: a variant, or the path of an .onnx file.
        taken: names that real runtimes have here.
        with_q8_0: whether twins are wanted; only a built-in variant on weights as they are stored has one.
    Raises:
        InputError: an unknown variant, or a file that is no graph of ours.
    """

    def __init__(self, text: str, taken: Sequence[str], with_q8_0: bool) -> None:
        self.name = f"variant {text}" if text in taken else text
        self.path = load_artifact(Path(text)).path if text.endswith(".onnx") else None
        self.variant = None if self.path else parse_variant(text)
        self.twin = _in_q8_0(self.variant) if self.variant and with_q8_0 else None


def _in_q8_0(variant: VariantRequest) -> VariantRequest | None:
    is_built_in = BUILDERS.get(variant.name) is variant.builder
    has_weights = "weights" in inspect.signature(variant.builder).parameters
    if not is_built_in or not has_weights or variant.weights != "as_stored":
        return None
    return replace(variant, options={**variant.options, "weights": "q8_0"})


def _exported(
    checkpoint: Checkpoint, named: Sequence[_Asked], folder: Path, progress: Progress, cache: bool
) -> tuple[tuple[Candidate, ...], Path, tuple[str, ...]]:
    """The candidates, the graph of the variant `reference`, which runs along unasked, and notes."""
    reference = _Asked(REFERENCE, (), with_q8_0=False)
    asked = [*named, reference]
    made, notes = _made(
        checkpoint, [one.variant for one in asked], [one.twin for one in named], folder, progress, cache
    )

    def path_of(variant: VariantRequest | None) -> Path | None:
        return next((path for other, path in made if other == variant), None)

    reference_graph = path_of(reference.variant)
    assert reference_graph is not None
    candidates = []
    for one in named:
        path = one.path or path_of(one.variant)
        assert path is not None
        candidates.append(Candidate(one.name, path, path_of(one.twin), True))
    if reference_graph not in [one.path for one in candidates]:
        candidates.append(Candidate(REFERENCE, reference_graph, None, False))
    return tuple(candidates), reference_graph, notes


def _made(
    checkpoint: Checkpoint,
    variants: Sequence[VariantRequest | None],
    twins: Sequence[VariantRequest | None],
    folder: Path,
    progress: Progress,
    cache: bool,
) -> tuple[list[tuple[VariantRequest, Path]], tuple[str, ...]]:
    """Each variant once, with its graph; the twins too, but for a note where they cannot be made."""
    plain, both = _once(variants), _once([*variants, *twins])
    try:
        paths = export(checkpoint, both, folder, progress, cache=cache)
        return list(zip(both, paths, strict=True)), ()
    except InputError as e:
        if plain == both:
            raise
        note = f"Q8_0 was not checked: {e}"
    paths = export(checkpoint, plain, folder, progress, cache=cache)
    return list(zip(plain, paths, strict=True)), (note,)


def _once(variants: Sequence[VariantRequest | None]) -> list[VariantRequest]:
    once: list[VariantRequest] = []
    for variant in variants:
        if variant is not None and variant not in once:
            once.append(variant)
    return once


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer | InputError:
    try:
        return open_tokenizer(checkpoint)
    except InputError as e:
        return e
