"""Named causes of a wrong gradient, one family a file: each looks at the symptoms and says what it sees, or nothing."""
