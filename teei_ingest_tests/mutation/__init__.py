"""Whether the tests notice when the product's privacy is broken: mutants of its code, which they have to kill."""
