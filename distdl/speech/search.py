"""From a network's outputs to transcripts: how a config's or a command's `decode` says to look for them.

    {}                                        the best unit of each frame
    {beam: 32}                                prefix beam search
    {beam: 32, lm: FILE, alpha: .., beta: ..} with a language model of words, in ARPA's or KenLM's format
"""

