# Broken: the coding cookie below names a codec that does not exist.
# -*- coding: klingon-8 -*-
greeting = "nuqneH"
