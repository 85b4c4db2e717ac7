"""Systems to be scored of which the answers are known."""

from context_module.evaluation import Subject


class Answering(Subject):
    """Of a data set with a simulator: a subclass says what becomes of images, nothing is ever sampled."""

    def __init__(self, data, spoil=None):
        self.data, self.spoil = data, spoil
        self.concepts, self.image_shape = data.concepts, data.train.image_shape

    def sample(self, n, context, generator):
        raise NotImplementedError

    def factors_of(self, images):
        """The true factors of the first observational images."""
        test = self.data.test
        return test.factors[test.labels == 0][: len(images)]
