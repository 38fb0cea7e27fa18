"""What a caller did wrong, told in one sentence that names the thing, its state and what was tried."""


class IllegalTransition(Exception):
    """A move that the table does not have; nothing was changed."""

    def __init__(self, noun: str, id: str, state: str, event: str) -> None:
        super().__init__(f"{noun} {id} is {state}: {event} cannot happen to it")
        self.noun, self.id, self.state, self.event = noun, id, state, event


class NoSuch(Exception):
    """This machine holds nothing by that name."""

    def __init__(self, noun: str, id: str) -> None:
        super().__init__(f"this machine holds no {noun} {id}")
        self.noun, self.id = noun, id
