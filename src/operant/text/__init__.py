"""Language as a world: tokenizers, contexts, models, sampling, data sets, the Almanac."""
