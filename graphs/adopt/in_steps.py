"""A graph run on a schedule: each step by itself on what the one before left, and then put together by position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..run import Runner, run_file_in_turn
from ..schedule.steps import Step
from ..stepping import StepRunner
from .by_position import Together, axes_of, is_same
from .flat import Flat, flatten, made
from .inputs import Fed
from .opened import Foreign


@dataclass(frozen=True)
class Course:
    """How a graph is fed: all at once, and, where that is not how it is compared, in each step.

    states: for each input that takes what the step before left, the output that leaves it.
    """

    whole: Fed
    steps: tuple[Step, ...] = ()
    fed: tuple[Fed, ...] = ()
    states: Mapping[str, str] = field(default_factory=dict)


def ran(foreign: Foreign, course: Course, runner: Runner) -> Flat:
    """The graph, run on its course.

    Raises:
        InputError: a node cannot run.
    """
    if not course.steps:
        return flatten(foreign, course.whole.data, course.whole.fixed, runner)
    states, parts, left = course.states, list[Flat](), dict[str, np.ndarray]()
    whole = _flat(foreign, course.whole, {}, states, runner)
    for its in course.fed:
        part = _flat(foreign, its, left, states, runner)
        left = {name: part.array(part.outputs[output]) for name, output in states.items()}
        alike = (name for name in part.constants & whole.constants if is_same(part.values[name], whole.values[name]))
        part.values.update({name: whole.values[name] for name in alike})  # held once
        parts.append(part)
    return Together(whole, parts, course.steps, states, StepRunner(runner)).flat()


def ran_again(flat: Flat, course: Course, instead: Mapping[str, np.ndarray], runner: Runner) -> Flat:
    """The same graph with other numbers for some of its constants."""
    if course.steps:
        return _with_constants(flat, instead, runner)
    return flatten(flat.foreign, course.whole.data, course.whole.fixed, runner, instead)


def _flat(
    foreign: Foreign, its: Fed, left: Mapping[str, np.ndarray], states: Mapping[str, str], runner: Runner
) -> Flat:
    """One run, whose empty past is a constant."""
    empty = {name: value for name, value in its.data.items() if name in states}
    data = {name: value for name, value in its.data.items() if name not in states}
    fixed = {name: value for name, value in {**its.fixed, **empty}.items() if name not in left}
    return flatten(foreign, {**data, **left}, fixed, runner)


def _with_constants(flat: Flat, instead: Mapping[str, np.ndarray], runner: Runner) -> Flat:
    again = replace(flat, values=dict(flat.values), constant_nodes=dict(flat.constant_nodes), given=dict(flat.given))
    again.replaced({name: array for name, array in instead.items() if name in flat.constants})
    changed, steps = set(again.given), StepRunner(runner)
    for name, node in list(again.constant_nodes.items()):
        if not changed.isdisjoint(node.input):
            found = made(node, again, again.values, steps)
            again.values.update(zip(node.output, found, strict=False))
            changed.add(name)
    for one in again.nodes:
        again.values.update(again.rerun(one, again.values, steps))
    return again


def run_as_it_is(flat: Flat, course: Course, runner: Runner) -> dict[str, np.ndarray]:
    """The outputs of the file as onnxruntime runs it on the course: by position, and of a cache what the last step leaves. It
    runs on one thread, and leaves the other cores to what is done beside it.

    Raises:
        InputError: it cannot run it.
    """
    foreign, states, outputs = flat.foreign, course.states, list(flat.outputs)

    def fed(its: Fed, left: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        past = {name: left[output] for name, output in states.items()} if left else {}
        return {**its.data, **its.fixed, **past}

    feeds = [lambda left, its=its: fed(its, left) for its in course.fed or (course.whole,)]
    on_one = replace(runner.settings, n_threads=1)
    found = list(run_file_in_turn(foreign.path, foreign.model, feeds, outputs, on_one))
    together = {}
    for name in outputs:
        ours, parts = flat.array(flat.outputs[name]), [one[name] for one in found]
        axes = axes_of(ours.shape, [part.shape for part in parts], course.steps)
        if axes is not None and axes.token is not None:
            together[name] = np.array(ours)  # where it has keys that no step has, ours
            for part, step in zip(parts, course.steps, strict=True):
                together[name][axes.place(step)] = part
        elif name in states.values():  # of a buffer, what is written
            together[name] = parts[-1][tuple(slice(size) for size in ours.shape)]
        else:
            together[name] = parts[-1]
    return together
