"""What every black-box suite shares: a server process, a raw signed client, and adapters of the SDKs."""
