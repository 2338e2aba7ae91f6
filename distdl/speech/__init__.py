"""Speech: features of sounds on the device, text as classes, edit distance, and decoding what a CTC network gives."""
