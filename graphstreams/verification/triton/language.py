"""The closed list of functions that a Triton kernel may call, by their full paths, and what each does.

A function that is not listed has no known effect, and the kernel that calls it is refused. Read in Triton 3.7 and 3.8
(`language/core.py`, `standard.py`, `random.py`, `math.py`, `extra/cuda`) and in torch 2.14 and 2.15
(`_inductor/runtime/triton_helpers.py`).
"""

from __future__ import annotations

import re
from enum import Enum, auto


class Effect(Enum):
    """What a function does with the addresses that it is given."""

    PURE = auto()  # numbers in, a number out; refuses addresses
    INERT = auto()  # looks at its arguments, whatever they are, and touches no memory
    IDENTITY = auto()  # gives its only argument
    NUMBER_TYPE = auto()  # gives the type of a number
    POINTER_TYPE = auto()  # gives the type of pointers to its argument
    CAST = auto()  # gives its first argument as its second, a type
    PASS = auto()  # gives its first argument in another shape
    MERGE = auto()  # gives any of its arguments, or a block of all
    SELECT = auto()  # as MERGE, after its first argument, which is a condition
    EACH = auto()  # gives a tuple of its arguments, in another shape
    ADD = auto()  # as the operator + or -
    READ = auto()  # reads where its first argument points
    WRITE = auto()  # writes where its first argument points
    UPDATE = auto()  # reads and writes where its first argument points
    DESCRIBE = auto()  # makes a tensor descriptor of its first argument, an address
    FOLD = auto()  # gives numbers to functions that are among its arguments
    LOOK_BACK = auto()  # as FOLD, and reads and writes where its first argument points
    ASSEMBLY = auto()  # runs instructions that the source spells out
    SEARCH = auto()  # bucketize: reads its second and its ninth argument


LANGUAGE = "triton.language."
_HELPERS = "torch._inductor.runtime.triton_helpers."
# Modules that have the functions of other modules too.
_ALIASES = (
    (f"{_HELPERS}libdevice.", f"{LANGUAGE}extra.libdevice."),
    (f"{LANGUAGE}extra.cuda.libdevice.", f"{LANGUAGE}extra.libdevice."),
    (f"{_HELPERS}math.", f"{LANGUAGE}math."),
    (f"{_HELPERS}tl.", LANGUAGE),
    (f"{LANGUAGE}core.", LANGUAGE),
    (f"{LANGUAGE}standard.", LANGUAGE),
    (f"{LANGUAGE}random.", LANGUAGE),
)


# The functions of each module, by what they do.
_FUNCTIONS = {
    LANGUAGE: {
        Effect.PURE: "_log2 abs arange argmax argmin bitonic_merge cdiv ceil clamp cos cumprod cumsum div_rn dot dot_scaled "
        "erf exp exp2 expect_zero extra.cuda.globaltimer extra.cuda.num_threads extra.cuda.num_warps extra.cuda.smid fdiv "
        "flip floor fma full gather histogram item log log2 logical_and logical_or max maximum min minimum mul "
        "num_programs pair_uniform_to_normal philox philox_impl program_id rand rand4x randint randint4x randn "
        "randn4x range reduce_or rsqrt sigmoid sin slice softmax sort sqrt sqrt_rn static_range sum swizzle2d topk "
        "uint_to_uniform_float umulhi xor_sum zeros zeros_like",
        Effect.INERT: "assume debug_barrier device_assert device_print static_assert static_print condition",
        Effect.IDENTITY: "constexpr to_tensor _unwrap_if_constexpr",
        Effect.NUMBER_TYPE: "dtype block_type get_int_dtype",
        Effect.POINTER_TYPE: "pointer_type",
        Effect.CAST: "cast to",
        Effect.PASS: "advance broadcast_to expand_dims make_block_ptr max_constancy max_contiguous multiple_of permute ravel "
        "reshape split squeeze trans unsqueeze view",
        Effect.MERGE: "cat interleave join",
        Effect.SELECT: "where",
        Effect.EACH: "broadcast tuple",
        Effect.ADD: "add sub",
        Effect.READ: "load load_tensor_descriptor _experimental_descriptor_load atomic_load",
        Effect.WRITE: "store store_tensor_descriptor scatter",
        Effect.UPDATE: "atomic_add atomic_and atomic_cas atomic_max atomic_min atomic_or atomic_poll atomic_store atomic_xchg "
        "atomic_xor",
        Effect.DESCRIBE: "make_tensor_descriptor _experimental_make_tensor_descriptor",
        Effect.FOLD: "associative_scan map_elementwise reduce",
        Effect.ASSEMBLY: "inline_asm_elementwise",
    },
    _HELPERS: {
        Effect.PURE: "_any_combine _prod_accumulate any constexpr_next_power_of_2 device_assert_then div_floor_integer exp "
        "fmax2 fmaximum fp8e4m3fn_to_float32 frexp if_mask inline_asm_pack inline_asm_unpack is_floating max2 max2_strict "
        "max_with_first_index max_with_index maximum maximum_with_index min2 min2_strict min_with_first_index "
        "min_with_index minimum minimum_with_index nextafter online_softmax_combine online_softmax_combine_with_sum "
        "online_softmax_reduce online_softmax_reduce_scalar_combine pack_value_flag pow_integer prod prod_inner_tree "
        "promote_to_tensor rand4x rand_eager_kernel randint64 randn4x remainder_integer select_one sort_with_index "
        "unpack_flag unpack_value welford welford_combine welford_reduce",
        Effect.INERT: "set_driver_to_gpu",
        Effect.SEARCH: "bucketize_binary_search",
        # Blocks of threads synchronize through the address, or pass sums on through it.
        Effect.UPDATE: "x_grid_barrier",
        Effect.LOOK_BACK: "exclusive_scan_decoupled_lookback exclusive_scan_decoupled_lookback_64",
    },
    "builtins.": {Effect.PURE: "float int max min range", Effect.INERT: "hasattr isinstance len print"},
    "triton.": {Effect.PURE: "cdiv next_power_of_2"},
}
_EFFECTS = {
    module + name: effect for module, groups in _FUNCTIONS.items() for effect, names in groups.items() for name in names.split()
}
# The position at which functions of Triton's language take a type. As a keyword it is called `dtype` or `out_dtype`.
TYPE_POSITIONS = {"full": 2, "zeros": 1, "sum": 3, "cumsum": 3, "cumprod": 3, "dot": 6, "inline_asm_elementwise": 3}
# A kernel that Inductor generates waits for its predecessor before it touches memory (`enable_pdl`).
_DEPENDENT_LAUNCH = (f"{LANGUAGE}extra.cuda.gdc_wait", f"{LANGUAGE}extra.cuda.gdc_launch_dependents")
# Modules whose functions take numbers by value and give a number.
_OF_NUMBERS = re.compile(re.escape(LANGUAGE) + r"(math|extra\.libdevice)\.[^.]*")
_REGISTER_INSTRUCTIONS = {
    "abs", "add", "addc", "and", "bfe", "bfi", "brev", "clz", "cnot", "copysign", "cos", "cvt", "div", "ex2", "fma",
    "lg2", "lop3", "mad", "mad24", "max", "min", "mov", "mul", "mul24", "neg", "not", "or", "popc", "prmt", "rcp", "rem",
    "rsqrt", "sad", "selp", "set", "setp", "shf", "shl", "shr", "sin", "sqrt", "sub", "subc", "tanh", "testp", "xor",
}  # fmt: skip

NUMBER_TYPES = re.compile(re.escape(LANGUAGE) + r"(u?int\d+|b?float\d+(e\d+)?(b\d+|nv)?)")
NUMBERS = re.compile(re.escape(LANGUAGE) + r"(PropagateNan\.\w+|ReductionOrdering\.\w+|TRITON_MAX_TENSOR_NUMEL)")


def canonical(path: str) -> str:
    """Return the listed path of a function that has several."""
    for prefix, other in _ALIASES:
        if path.startswith(prefix):
            return canonical(other + path.removeprefix(prefix))
    return path


def effect_of(path: str, generated: bool) -> Effect | None:
    """Return what a function does; None if that is not known. `generated` says that a kernel of Inductor's own calls it.

    A method of a tensor does what the function of its name does with the tensor as its first argument.
    """
    if _OF_NUMBERS.fullmatch(path):
        return Effect.PURE
    return Effect.INERT if generated and path in _DEPENDENT_LAUNCH else _EFFECTS.get(path)


def stays_in_registers(assembly: str) -> bool:
    """Return whether PTX has instructions, all of them known to touch no memory."""
    if not assembly.strip() or "[" in assembly or "/*" in assembly or "//" in assembly:
        return False
    for statement in re.split(r"[;{}\n]", assembly):
        words = statement.split()
        if words and words[0].startswith("@"):
            words = words[1:]
        if words and words[0] != ".reg" and words[0].partition(".")[0] not in _REGISTER_INSTRUCTIONS:
            return False
    return True
