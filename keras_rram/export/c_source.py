"""A TFLite file as C, to be compiled into a microcontroller's program."""

import dataclasses
import re

from keras_rram.export.flatbuffer import parse

# TensorFlow Lite Micro needs it.
_ALIGNMENT = 16
_BYTES_PER_LINE = 12
# Words of C23 and C++23 that are identifiers by their letters, and `main`.
_RESERVED = frozenset(
    re.findall(
        r"\w+",
        """alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t
        char16_t char32_t class compl concept const const_cast consteval constexpr constinit
        continue co_await co_return co_yield decltype default delete do double dynamic_cast else
        enum explicit export extern false float for friend goto if inline int long main mutable
        namespace new noexcept not not_eq nullptr operator or or_eq private protected public
        register reinterpret_cast requires restrict return short signed sizeof static static_assert
        static_cast struct switch template this thread_local throw true try typedef typeid typename
        typeof typeof_unqual union unsigned using virtual void volatile wchar_t while xor xor_eq""",
    )
)


@dataclasses.dataclass(frozen=True)
class CArray:
    """A file as C++ source that any C compiler of 2011 or later also takes.

    Attributes:
        header: declares `<name>` and `<name>_len`.
        source: defines them.
    """

    header: str
    source: str


def c_array(tflite: bytes | bytearray, name: str = "model") -> CArray:
    """Returns a TFLite file as a C array, aligned as TensorFlow Lite Micro needs it.

    Args:
        tflite: bytes of the file.
        name: name of the array, a C identifier. The length is `<name>_len`.

    Raises:
        ValueError: if `name` is no identifier, or a word of the language, or `tflite` not a TFLite
            file.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError(f"`name` must be a C identifier, say 'model'. Received: name={name!r}")
    if name in _RESERVED:
        raise ValueError(f"`name` must be no word of C or C++. Received: name={name!r}")
    parse(tflite)
    data = bytes(tflite)
    lines = [
        "    " + ", ".join(f"0x{byte:02x}" for byte in data[start : start + _BYTES_PER_LINE])
        for start in range(0, len(data), _BYTES_PER_LINE)
    ]
    guard = f"{name.upper()}_H_"
    header = (
        f"#ifndef {guard}\n#define {guard}\n\n"
        '#ifdef __cplusplus\nextern "C" {\n#endif\n\n'
        f"/* A TensorFlow Lite model of {len(data)} bytes. */\n"
        f"extern const unsigned char {name}[];\n"
        f"extern const unsigned int {name}_len;\n\n"
        f"#ifdef __cplusplus\n}}\n#endif\n\n#endif /* {guard} */\n"
    )
    source = (
        f'#include "{name}.h"\n\n'
        "#ifndef __cplusplus\n#include <stdalign.h>\n#endif\n\n"
        f"alignas({_ALIGNMENT}) const unsigned char {name}[] = {{\n"
        + ",\n".join(lines)
        + f"\n}};\nconst unsigned int {name}_len = {len(data)}u;\n"
    )
    return CArray(header, source)
