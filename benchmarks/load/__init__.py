"""A load generator that speaks the LiveKit client protocol.

`plan` says what to do and refuses what cannot be done, `scenarios` leads workers through it, `worker` is a process full
of `client`s whose media goes through one `engine`, `measure` and `report` turn what they counted into figures.
"""
