"""`invariances demo`: the app in a browser."""

from __future__ import annotations

SETTINGS = {
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "logger.hideWelcomeMessage": "true",
    "server.fileWatcherType": "none",
    "server.maxUploadSize": "64",
    "server.showEmailPrompt": "false",
    "theme.light.primaryColor": "#0e7490",
    "theme.dark.primaryColor": "#22a5c4",
}
"""Silent, bounded, without traces or advertisements; invariances/.streamlit/config.toml says so to `streamlit run`."""


def demo(port: int = 8501, host: str = "localhost", browser: bool = True) -> int:
    """Start the app with the five demos; Ctrl-C ends it.

    It listens to this machine alone unless told otherwise, and sends nothing anywhere. Pictures in `data/custom` of the
    current folder are offered beside the built-in ones.

    Args:
        port: Where it listens.
        host: Address to listen on; 0.0.0.0 lets other machines in.
        browser: Open it in a browser.

    Example:
        invariances demo --port 8600
    """
    import subprocess
    import sys
    from pathlib import Path

    from invariances.system.errors import UserError
    from invariances.system.extras import installed

    for package in ("streamlit", "av"):
        if not installed(package):
            raise UserError(f"the app needs {package}; `pip install 'invariances[app]'` brings it")
    if not 1 <= port <= 65535:
        raise UserError(f"port is {port}; give a number from 1 to 65535")
    given = {
        **SETTINGS,
        "server.port": port,
        "server.address": host,
        "server.headless": str(not browser).lower(),
    }
    words = [f"--{name}={value}" for name, value in given.items()]
    script = str(Path(__file__).parents[1] / "demo.py")
    print(f"the app: http://{host}:{port} (Ctrl-C ends it)", flush=True)
    return subprocess.call([sys.executable, "-m", "streamlit", "run", script, *words])
