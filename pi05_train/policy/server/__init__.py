"""The policy as a service: openpi's websocket and msgpack protocol, several robots at once."""
