"""Why a run went as it did: pathologies with evidence and a lever, from what it recorded."""
