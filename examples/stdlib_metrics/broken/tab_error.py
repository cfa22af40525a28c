# Broken: one block is indented by spaces, then by a tab.
if True:
        first = 1
	second = 2
