# Broken: the second statement is indented without a block.
first = 1
    second = 2
