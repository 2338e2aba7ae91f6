"""From the log-probabilities of a CTC network to text: best paths, beam search with a language model or a lexicon."""
