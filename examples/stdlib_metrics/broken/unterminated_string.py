# Broken: the triple-quoted string never ends.
help_text = """
Usage: program [options]
