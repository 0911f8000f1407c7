"""The five demos as an app: `streamlit run invariances/demo.py`, or `invariances demo`."""

import sys
from pathlib import Path

sys.path[:] = [each for each in sys.path if Path(each or ".").resolve() != Path(__file__).parent]
sys.path.append(str(Path(__file__).parents[1]))

from invariances.app.frame import main  # noqa: E402

main()
