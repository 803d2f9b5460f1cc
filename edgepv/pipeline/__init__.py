"""From a model to bundles: options, the model and its clips, compress, stream, lower, the target's builder,
the evaluation of every variant, the choice, what is written. Each step is cached by what went into it.
"""
