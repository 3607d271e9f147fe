"""The host side: keeps the phones of one machine connected and follows what runs on them."""
