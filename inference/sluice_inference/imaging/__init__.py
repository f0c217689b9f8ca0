"""From untrusted bytes to uint8 RGB arrays."""
