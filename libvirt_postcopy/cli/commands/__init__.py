"""One module a verb: ``options(parser)`` and ``run(args, out) -> int``."""
