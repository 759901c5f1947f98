"""What is wrong with a training corpus, measured without any trained network; see :mod:`.report`."""
