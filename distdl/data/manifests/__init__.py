"""Lists of utterances as other tools for speech write them, recognised by what is in them."""
