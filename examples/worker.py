"""A worker: an agent in a process of its own. Each line of its standard input is a question, or "(go on)".

It prints its answers, and "(looking)" while it looks something up.

python worker.py redis://HOST:PORT/0
"""

from __future__ import annotations

import sys
import time

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from scripted import ScriptedModel, invoice_of

from langchain_ttl_history import SessionBuffer


@tool
def find_invoice(month: str, config: RunnableConfig) -> str:
    """Find the invoice of a month."""
    print("(looking)", flush=True)
    time.sleep(1)  # slow on purpose: the story needs two turns that overlap
    return invoice_of(config["configurable"]["user_id"], month)


buffer = SessionBuffer(sys.argv[1])
agent = create_agent(ScriptedModel(), [find_invoice], checkpointer=buffer.checkpointer())
config = buffer.config("alice", "support")

print("ready", flush=True)
for line in sys.stdin:
    question = line.strip()
    # Without input a graph goes on from its last checkpoint, whoever stored it. With "sync" each step is stored before
    # the next one begins, so that checkpoint has the call of a tool that runs.
    state = agent.invoke(
        None if question == "(go on)" else {"messages": [HumanMessage(question)]}, config, durability="sync"
    )
    print(state["messages"][-1].text, flush=True)
