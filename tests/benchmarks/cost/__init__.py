"""Cost and memory: how much time and memory do checks take?"""
