"""The Dagster graph, one module for each of Dagster's concepts; nothing outside this folder imports dagster.

What a stream is, how it is fetched, redacted and stored stays out: a module here only says it to Dagster.
"""

import warnings

import dagster as dg

# Checks by partition are a preview and code references a beta; the version is pinned, so that they stay as tested.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
warnings.filterwarnings("ignore", category=dg.BetaWarning)
