"""Write forms that no wrapper of Inductor's has, with the effect of those that it has, or without.

That they are refused is right, whatever they do. That they are read is too, if it is with what Python does.
"""

from __future__ import annotations

import re

from tests.support.text_mutants.text import EVENT, LAUNCH, STREAM, SYNC, TENSOR, Text, indentation, is_del

_ODD_TENSORS = (
    "{0}.T", "{0}.data", "{0}.detach()", "{0}.view(-1)", "{0}[0:1]", "({0}, {1})[0]", "[{1}, {0}][1]", "(0 or {0})",
    "({0} if True else {1})", "({0} if False else {1})", "(lambda: {0})()", "(lambda x={0}: x)()", "({0} := {1})",
    "dict(x={0})['x']", "{0}.clone()", "*({0},)", "(None, {0})[len('x')]", "torch.ops.aten.contiguous.default({0})",
    "torch.ops.inductor._reinterpret_tensor({0}, (64, ), (1, ), 0)", "[x for x in ({0},)][0]", "next(iter([{0}]))",
    "max([{0}], key=id)", "locals()['{0}']",
)  # fmt: skip
_ODD_REBOUND = (
    "{0} = None", "{0}, {1} = {1}, {0}", "{0} = {1} = {2}", "keep = ({0}, {1})", "keep = [{0}]", "s99 = {0}",
    "{0}: object = {1}", "({0} := {1})", "global {0}", "args.append({0})", "[{0}, *_] = [{1}, {2}]",
    "{0} = {1} if {2} is None else {0}",
    "del {0}, {1}", "del ({0})", "s99 = 64; del {0}", "buf900 = [{0}, {1}]; del {0}; {0} = buf900[1]; del buf900",
)  # fmt: skip
_ODD_OPERATORS = (
    "buf900 = torch.ops.aten.native_batch_norm.default({0}, None, None, {1}, {2}, True, 0.1, 1e-05)",
    "{0} = torch.ops.aten.contiguous.default({1})",
    "buf900 = torch.ops.aten.reshape.default({0}, [64])",
    "buf900 = torch.ops.aten.split.Tensor({0}, 2); {0} = buf900[1]; del buf900",
    "{0}, {1} = torch.ops.aten.chunk.default({2}, 2)",
    "{0} = torch.ops.aten.meshgrid.default([{1}, {2}])[1]",
    "buf900 = torch.ops.aten.split_copy.Tensor({0}, 2); {0} = buf900[1]; del buf900",
    "{0} = torch.ops.aten.split_copy.Tensor({1}, 2)[0]",
    "{0}.copy_({1})", "{0}.copy_({1}, True)", "{0} = {1}.clone()", "{0}.zero_()", "s99 = {0}.item()",
    "buf900 = torch.empty_strided((1,), (1,), dtype=torch.int64, device='cpu', pin_memory=True); "
    "buf900.copy_({0}, True); s99 = buf900.item()",
)  # fmt: skip
_ODD_STATEMENTS = (
    "_ = 0 and {0}", "_ = 1 or {0}", "_ = 1 > 2 > {0}", "_ = [{0} for _ in ()]", "_ = lambda: {0}", "_ = None if 1 else {0}",
    "if 0: {0}", "if torch is None: {0}", "while 0: {0}", "for _ in (): {0}", "for _ in (0, 1): {0}", "def _(x={0}): pass",
    "assert 1, {0}", "assert {0} is None", "_ = {0}", "_ = ({0}, )", "({0})", "{0}; {0}", "print(end='') or {0}",
    "_ = f'{{{0}}}'", "_ = 0 and (yes := {0})", "global x; {0}", "_ = 1 and {0}",
)  # fmt: skip
_ODD_SYNCS = (
    "{event}.record()", "{event}.wait()", "{stream}.wait_event({event})", "{stream}.record_event({event})",
    "{stream}.wait_stream({other})", "{event}.synchronize()", "{stream}.synchronize()", "{event}.record(stream={stream})",
    "{event}.wait(*[{stream}])", "getattr({event}, 'wait')({stream})", "{event}.__class__.wait({event}, {stream})",
    "{event}.record({stream}) or {event}.wait({other})", "{stream}.__enter__()", "{stream}.__exit__()",
    "{event}, {event}.record = None, None", "{stream}, {other} = {other}, {stream}",
)  # fmt: skip
_ODD_BLOCKS = (
    "with {0}, {1}:", "with {0} as {1}:", "with (0 or {0}):", "with ({0} if 0 else {1}):", "if {0}:", "with ({0}):",
    "with ({0}, {1}):", "for _ in (0, 1):", "with {0} and {1}:", "try:", "if 1:", "with torch.cuda.stream({0}):",
)  # fmt: skip
_ODD_HANDLERS = (
    "except Exception:", "except BaseException as error:", "except (BaseException, ):", "except KeyboardInterrupt:",
    "except:", "finally:", "except* BaseException:",
)  # fmt: skip
_ODD_DISPATCHES = (
    "if not {asks}(args, False):", "if {asks}(args, True):", "if {asks}(args, False) or 1:", "if 0 and {asks}(args, False):",
    "while {asks}(args, False):", "if {asks}(args[:], False):", "if {asks}(args, direct=True):", "if {asks}([], False):",
    "if {asks}(args, False, 'inputs.append(inputs[0])'):", "if {asks}(args, True, 'inputs.reverse()'):",
    "if {asks}(args, 0, '0', 3):",
    "if {asks}(args, False, 'inputs[0].shape[0]', 4, 1):", "if {asks}(args, False) and args.reverse() is None:",
    "if args.reverse() or {asks}(args, False):", "if {asks}(args, False) if args else True:",
)  # fmt: skip
_ODD_CALLS = (
    "return call_on_streams(list(args))", "return call_on_streams(args[::-1])", "call_on_streams(args)",
    "args = call_on_streams(args)",
    "return call_on_streams([*args])", "return call_on_streams(args) or args", "return (*call_on_streams(args), )",
    "return call_on_streams(args)[::-1]", "return call_on_streams(args) + (args, )", "yield call_on_streams(args)",
    "keep = list(args); return call_on_streams(args)", "args.append(args[0]); return call_on_streams(args)",
    "call_on_streams(list(args))", "call_on_streams(args[:]); call_on_streams(args[:])",
)  # fmt: skip


def odd_dispatch(text: Text) -> None:
    """Choose between two bodies in another way, or call the one on streams in another way."""
    place = text.pick(lambda line: "_runs_on_streams(" in line or "call_on_streams(" in line)
    if place is not None:
        line = text.lines[place]
        forms = _ODD_DISPATCHES if "_runs_on_streams(" in line else _ODD_CALLS
        text.lines[place] = indentation(line) + text.rng.choice(forms).format(asks="_runs_on_streams")


def odd_sync(text: Text) -> None:
    """Write an odd form in the place of a record or a wait, or anywhere."""
    streams, events = text.names(STREAM), text.names(EVENT)
    if streams and events:
        stream, other = text.rng.choice(streams), text.rng.choice(streams)
        line = text.rng.choice(_ODD_SYNCS).format(stream=stream, other=other, event=text.rng.choice(events))
        place = text.pick(SYNC.match)
        if place is not None and text.rng.random() < 0.7:
            text.lines[place] = indentation(text.lines[place]) + line
        else:
            text.insert(text.place(), line)


def odd_block(text: Text) -> None:
    """Let a `with` enter, or an `except` catch, something else."""
    streams = text.names(STREAM)
    place = text.pick(lambda line: line.strip().startswith(("with stream", "except ")))
    if place is not None and streams:
        line = text.lines[place]
        forms = _ODD_HANDLERS if line.strip().startswith("except ") else _ODD_BLOCKS
        form = text.rng.choice(forms).format(text.rng.choice(streams), text.rng.choice(streams))
        text.lines[place] = indentation(line) + form


def odd_tensor(text: Text) -> None:
    place = text.pick(lambda line: TENSOR.search(line) and not is_del(line))
    if place is not None:
        form, other = text.rng.choice(_ODD_TENSORS), text.rng.choice(text.names(TENSOR))
        # Behind the name that the line may begin with.
        which = -1 if text.rng.random() < 0.5 else None
        text.replace(place, TENSOR, lambda name: form.format(name, other), which)


def odd_statement(text: Text) -> None:
    place = text.pick(lambda line: SYNC.match(line) or (LAUNCH.search(line) and not line.strip().startswith("buf")))
    if place is not None:
        line = text.lines[place]
        text.lines[place] = indentation(line) + text.rng.choice(_ODD_STATEMENTS).format(line.strip())


def odd_rebind(text: Text) -> None:
    text.insert_form(_ODD_REBOUND)


def odd_operator(text: Text) -> None:
    """Call operators whose schema does not tell what they write, or that return what they were given."""
    text.insert_form(_ODD_OPERATORS)


def rebind_in_module(text: Text) -> None:
    """Give a kernel, or a function of torch, the name of another ahead of the call."""
    kernels = [line.split(" = ")[0] for line in text.lines[: text.first] if " = async_compile.triton(" in line]
    functions = ["assert_size_stride", "reinterpret_tensor", "empty_strided_cuda", "get_raw_stream", "extern_kernels"]
    choices = [(kernels, kernels), (functions, functions)] if len(kernels) > 1 else [(functions, functions)]
    names, others = text.rng.choice(choices)
    place = text.rng.choice((text.first, text.first, text.last))
    text.lines.insert(place, f"{text.rng.choice(names)} = {text.rng.choice(others)}")
    text.first, text.last = text.first + (place == text.first), text.last + 1


def drop_in_module(text: Text) -> None:
    places = [i for i in range(text.first) if re.match(r"\w+ = [\w.]+$|from |import ", text.lines[i])]
    place = text.rng.choice(places)
    line = text.lines.pop(place)
    text.first, text.last = text.first - 1, text.last - 1
    if text.rng.random() < 0.5:
        text.lines.insert(text.first, line)
        text.first, text.last = text.first + 1, text.last + 1
