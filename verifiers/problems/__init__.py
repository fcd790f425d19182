"""Where problems come from: files, the hub, published formats, the generator; checked row by row. Commands,
evaluation and the checks before a run come in by `loading`, settings by `config`."""
