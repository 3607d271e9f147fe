"""What a phone and this computer can do, probed one by one: nothing is assumed, everything has evidence."""
