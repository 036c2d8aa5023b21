"""The CoreML target: a `.pte` whose methods are functions of one package, in float16, with an external cache."""
