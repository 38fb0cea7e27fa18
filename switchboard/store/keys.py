"""Every key that the switchboard keeps, named once. The keys of one run share a hash tag, so that a cluster stays possible."""

from switchboard.domain.errors import Invalid

LIBRARY = (
    "switchboard_v1"  # of functions; a changed meaning takes the next number, and the old one stays for old replicas
)


class Keys:
    def __init__(self, prefix: str = "sb:") -> None:
        self.prefix = prefix

    def record(self, noun: str, id: str) -> str:
        return f"{self.prefix}{noun}:{{{_named(noun, id)}}}"

    def index(self, noun: str) -> str:
        return f"{self.prefix}ids:{noun}"

    def output(self, run: str) -> str:
        return f"{self.prefix}output:{{{_named('run', run)}}}"

    def next(self, run: str) -> str:
        return f"{self.prefix}next:{{{_named('run', run)}}}"

    @property
    def changes(self) -> str:
        return f"{self.prefix}changes"

    @property
    def epoch(self) -> str:
        return f"{self.prefix}epoch"

    @property
    def generation(self) -> str:
        return f"{self.prefix}generation"

    def connection(self, machine: str) -> str:
        return f"{self.prefix}connection:{{{_named('machine', machine)}}}"

    @property
    def audit(self) -> str:
        return f"{self.prefix}{{audit}}:log"

    @property
    def audit_head(self) -> str:
        return f"{self.prefix}{{audit}}:head"

    def audited(self, action: str, subject: str, once: str) -> str:
        """Says that there is an entry of this, for ever: the chain itself could only be searched."""
        return f"{self.prefix}{{audit}}:once:{action}:{subject}:{once}"


def _named(noun: str, id: str) -> str:
    """An empty tag would put the keys of one run into different slots, and text that is no Unicode cannot be sent."""
    if not id or len(id) > 512:
        raise Invalid("id", f"the id of a {noun} has 1 to 512 characters, this one has {len(id)}")
    try:
        id.encode()
    except UnicodeEncodeError:
        raise Invalid("id", f"the id of a {noun} holds characters that are not Unicode") from None
    return id
