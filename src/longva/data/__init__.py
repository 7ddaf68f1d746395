"""Training data: packed text, conversations about images and videos, preferences.

Every data set of this package offers the same few things, and the training loop needs no more:

    len(dataset), dataset[index]     stateless: the sample depends on its index only
    dataset.collate(samples)         a batch of tensors from a list of samples
    dataset.lengths                  int64 [len], estimated tokens to group by; None: all are equal
    train.order.StepOrder            which indices a rank reads at a step, for any number of ranks
"""
