# Broken: a word processor turned the quotes into typographic ones.
greeting = “hello”
