"""What the agent reads out of a result without ever unpickling it."""

from __future__ import annotations

from typing import NamedTuple

_PROTO, _FRAME, _STOP = 0x80, 0x95, 0x2E
_INTS = {0x4B: 1, 0x4D: 2, 0x4A: 4}  # BININT1, BININT2, BININT: bytes of the number


def command_exit_code(payload: bytes) -> int | None:
    """The number in a pickle that is nothing but a small number, as a command's result is; else None."""
    at = 2 if payload[:1] == bytes((_PROTO,)) else 0
    if payload[at : at + 1] == bytes((_FRAME,)):
        at += 9
    size = _INTS.get(payload[at] if at < len(payload) else -1)
    if size is None or len(payload) != at + size + 2 or payload[-1] != _STOP:
        return None
    return int.from_bytes(payload[at + 1 : at + 1 + size], "little", signed=size == 4)


class Raised(NamedTuple):
    """The class of a pickled exception, and the first text in it, mostly its message."""

    module: str
    name: str
    text: str


_SKIPPED = ("tblib", "copyreg", "builtins", "types", "__builtin__")
_DEPTH = 200  # opcodes
_DIED = "ProcessorDiedError"
_ATTRIBUTES, _ARGUMENTS = "__dict__", "args"
"""tblib 3.2 pickles some exceptions as attributes with their names, the message being in the last one."""


def raised(payload: bytes) -> Raised | None:
    """What a failed task raised, as far as its pickle shows without being run; None if it does not."""
    import pickletools

    texts: list[str] = []
    found: tuple[str, str] | None = None
    builtin: tuple[str, str] | None = None
    by_name = False
    try:
        for (opcode, argument, _), _ in zip(pickletools.genops(payload), range(_DEPTH), strict=False):
            if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE", "UNICODE"):
                if (found or builtin) and (by_name or argument == _ATTRIBUTES):
                    by_name = argument != _ARGUMENTS
                elif found or builtin:
                    return Raised(*(found or builtin or ("", "")), str(argument))
                texts.append(str(argument))
            elif opcode.name in ("GLOBAL", "STACK_GLOBAL"):
                pair = str(argument).split(" ") if opcode.name == "GLOBAL" else texts[-2:]
                if len(pair) != 2:
                    return None
                module, name = pair
                if module == "builtins" and (name.endswith(("Error", "Exception", "Exit", "Interrupt", "Iteration"))):
                    builtin = builtin or (module, name)
                elif module.partition(".")[0] not in _SKIPPED:
                    found = found or (module, name)
    except Exception:  # no pickle, or cut off
        return None
    which = found or builtin
    return Raised(*which, "") if which else None


def processor_died(payload: bytes) -> str:
    """Why, if the payload says that the process died in which the task ran; else empty."""
    if _DIED.encode() not in payload[:4096]:
        return ""
    what = raised(payload)
    if what is None or what.name != _DIED:
        return ""
    died = "the process that ran the task died"
    if what.text.startswith("process_status="):  # all that opengris-scaler says
        return f"{died}: {what.text}"
    return what.text or died
