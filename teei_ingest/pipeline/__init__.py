"""From a source to a table, one window of one stream of one company at a time; knows nothing of Dagster."""
