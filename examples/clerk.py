"""A clerk that pays invoices, each once a person has agreed. Every call of this script is a process of its own.

python clerk.py FOLDER ask "Pay INV-2041."    ask, and wait until the process is killed
python clerk.py FOLDER approve                let the waiting agent go on
"""

from __future__ import annotations

import sys
from pathlib import Path

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.types import Command
from scripted import ScriptedModel

from langchain_ttl_history import Retention, SessionBuffer

folder, command, *question = sys.argv[1:]


@tool
def pay_invoice(number: str) -> str:
    """Pay an invoice by its number."""
    with Path(folder, "ledger.txt").open("a", encoding="utf-8") as ledger:
        ledger.write(f"paid {number}\n")
    return f"{number} is paid."


buffer = SessionBuffer(f"sqlite:///{folder}/sessions.db", retention=Retention(idle_ttl=3 * 24 * 3600))
agent = create_agent(
    ScriptedModel(),
    [pay_invoice],
    middleware=[HumanInTheLoopMiddleware(interrupt_on={"pay_invoice": True})],
    checkpointer=buffer.checkpointer(),
)
config = buffer.config("alice", "payments")

if command == "ask":
    agent.invoke({"messages": [HumanMessage(" ".join(question))]}, config)
    request = agent.get_state(config).interrupts[0].value["action_requests"][0]
    print("waits for a person:", request["name"], request["args"], flush=True)
    sys.stdin.read()  # waits till it is killed: nobody may answer in this process
elif not agent.get_state(config).interrupts:
    print("nothing waits for approval")
else:
    state = agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), config)
    print(state["messages"][-1].text)
