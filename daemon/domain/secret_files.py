"""Which files look like credentials by their names; those are never copied."""

from fnmatch import fnmatchcase

_NAMES = (
    *(".env", ".env.*", "*.env", ".envrc", "*.pem", "*.key", "*.p8", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk"),
    *("*.kdbx", "*.asc", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".npmrc", ".yarnrc.yml"),
    *(".pypirc", ".pgpass", ".my.cnf", ".htpasswd", ".git-credentials", ".vault-token", "*.tfstate", "*.tfstate.*"),
    *("*.tfvars", "credentials", "credentials.*", "*credentials*.json", "client_secret*.json", "service*account*.json"),
    *(
        "secret",
        "secrets",
        "secrets.*",
        "secret.*",
        "*.secret",
        "*.secrets",
        "token",
        "tokens",
        "*.token",
        "kubeconfig",
    ),
    *(".dockercfg", "auth.json", "*.ovpn", "master.key", "wallet.dat"),
)
_FOLDERS = {".ssh", ".aws", ".gnupg", ".kube", ".azure", ".gcloud", ".docker", ".secrets", "secrets"}
_EXAMPLES = (".example", ".sample", ".template", ".dist", ".pub")


def looks_secret(path: str) -> bool:
    """Tell whether the file at *path*, with slashes between names, looks like a credential."""
    *folders, name = path.lower().split("/")
    if name.endswith(_EXAMPLES):
        return False
    return any(folder in _FOLDERS for folder in folders) or any(fnmatchcase(name, pattern) for pattern in _NAMES)
