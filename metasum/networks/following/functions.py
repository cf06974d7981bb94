"""Names of functions of torch, torch.nn.functional and Tensor, without underscores at their ends, by what they do."""

# These return what they are given.
SAME = {
    "contiguous", "clone", "detach", "data", "to", "type", "float", "double", "half", "bfloat16", "cpu", "cuda",
    "type_as", "requires_grad", "alias", "identity", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout",
    "feature_dropout", "feature_alpha_dropout",
}  # fmt: skip
# These move elements and change none, so that the same call moves their numbers.
TURNING = {"t", "T", "mT", "transpose", "permute", "movedim", "moveaxis", "swapaxes", "swapdims", "adjoint"}
MOVING = TURNING | {
    "flatten", "reshape", "view", "cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "chunk",
    "split", "split_with_sizes", "tensor_split", "hsplit", "vsplit", "unbind", "narrow", "select", "getitem",
    "index_select", "squeeze", "unsqueeze", "unflatten", "unfold", "ravel", "expand", "expand_as", "broadcast_to",
    "broadcast_tensors", "view_as", "reshape_as", "repeat", "tile", "repeat_interleave", "flip", "rot90", "roll",
    "channel_shuffle", "pixel_shuffle", "pixel_unshuffle",
}  # fmt: skip
INDEXING = {"getitem", "index_select", "repeat_interleave"}  # of these, tensors behind the first say where
ELEMENTWISE = {
    "relu", "relu6", "leaky_relu", "rrelu", "gelu", "silu", "elu", "selu", "celu", "mish", "tanh", "sigmoid",
    "hardtanh", "hardswish", "hardsigmoid", "hardshrink", "softshrink", "tanhshrink", "threshold", "softplus",
    "logsigmoid", "softsign", "erf", "sin", "cos", "add", "iadd", "radd", "sub", "isub", "rsub", "subtract", "mul",
    "imul", "rmul", "multiply", "div", "idiv", "truediv", "itruediv", "rtruediv", "rdiv", "divide", "floor_divide",
    "neg", "negative", "pos", "abs", "absolute", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "square", "pow",
    "ipow", "rpow", "reciprocal", "sign", "round", "floor", "ceil", "clamp", "clip", "clamp_min", "clamp_max",
    "maximum", "minimum", "where", "masked_fill", "nan_to_num", "lerp", "addcmul", "addcdiv", "zero", "fill", "copy",
    "gt", "ge", "lt", "le", "eq", "ne", "logical_not", "logical_and", "logical_or", "isnan", "isinf", "isfinite",
}  # fmt: skip
OVER_PIXELS = {
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool1d", "lp_pool2d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "interpolate", "upsample",
}  # fmt: skip
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
TRANSPOSED_CONVOLUTIONS = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
NORMALISING = {"batch_norm", "instance_norm", "group_norm"}
NORMALISING_THE_LAST = {"layer_norm", "rms_norm"}
# Each element depends on itself and, whatever their order, on all others along a dimension: which argument that is.
ALONG_A_DIMENSION = {"softmax": 1, "log_softmax": 1, "softmin": 1, "normalize": 2}
REDUCING = {
    "mean": 1,
    "sum": 1,
    "amax": 1,
    "amin": 1,
    "var": 1,
    "std": 1,
    "norm": 2,
    "logsumexp": 1,
    "prod": 1,
    "max": 1,
    "min": 1,
}
# These look at a tensor's shape, dtype and device, and at no number in it.
SHAPED = {
    "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty",
    "new_tensor", "rand_like", "randn_like",
}  # fmt: skip
FACTS = {
    "dim", "ndim", "ndimension", "size", "shape", "numel", "nelement", "len", "stride", "dtype", "device", "layout",
    "is_contiguous", "is_floating_point", "is_complex", "is_cuda", "is_cpu", "is_nested", "is_sparse", "is_leaf",
    "is_quantized", "is_mps", "is_meta", "is_mkldnn", "requires_grad", "grad_fn", "grad", "element_size", "itemsize",
    "nbytes", "get_device", "is_view", "data_ptr", "storage_offset", "backward_hooks", "names", "is_pinned",
    "is_same_size", "is_conj", "is_neg", "is_inference", "hash", "version", "base", "is_shared", "result_type",
    "can_cast", "broadcast_shapes", "has_names",
}  # fmt: skip
