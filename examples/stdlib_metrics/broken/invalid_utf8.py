# Broken: the string below is Latin-1, but no coding cookie says so.
city = "Köln"
