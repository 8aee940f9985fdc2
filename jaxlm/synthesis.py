def make_synthesis(config, model):
    def prepare(batch, rng):
        return batch

    return prepare
