"""Is the cause of a wrong gradient named, and is a wrong one never named?"""
