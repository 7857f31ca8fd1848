"""The command line: the arguments and output of each subcommand. Handlers import the modules that do the work when they run.

Exit codes: 0 is success, 2 an invalid command line, and 130 Ctrl-C. 1 is an error, with one or two lines on stderr that say what happened
and what to run. 1 also stands for a bad verdict of the ledger or the demo, a failed check of the doctor, or a stack that is not ready.

This module is long because it contains every subcommand.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from userhooks.errors import UserhooksError

if TYPE_CHECKING:
    from userhooks.stack.stack import Stack
    from userhooks.stack.status import SequinStatus, SlotStatus, StackStatus

Handler = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if "handler" not in arguments:
        parser.print_help(sys.stderr)
        return 2
    handler: Handler = arguments.handler
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _on_terminate)
    try:
        return handler(arguments)
    except UserhooksError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), 1
        )  # a reader like `head` closed the pipe; avoid a second error when stdout is flushed at exit
        return 0


def _on_terminate(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)  # so that `finally` blocks stop what this command started


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="userhooks",
        description="Webhooks for every user's own rows in Postgres, with Sequin.",
        epilog="To begin, run userhooks up --detach, or userhooks lab for the lessons. README.md lists the environment variables.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, handler: Handler, text: str, example: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"Example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subparser.set_defaults(handler=handler)
        return subparser

    up = command("up", _up, "start every part that is not running, and wait for Ctrl-C", "userhooks up --detach")
    up.add_argument("--detach", action="store_true", help="return when everything is ready; userhooks down stops it")
    command("down", _down, "stop every process of the stack, and keep the data", "userhooks down")
    status = command("status", _status, "show what runs where", "userhooks status --json")
    status.add_argument("--json", action="store_true", help="print JSON, including passwords and tokens")
    lab = command(
        "lab", _lab, "start the stack, and open your lessons in JupyterLab", "userhooks lab --no-browser -- --ServerApp.port=8899"
    )
    lab.add_argument("--no-browser", action="store_true", help="print the URL instead of opening a browser")
    lab.add_argument("jupyter", nargs="*", metavar="OPTION", help="options for JupyterLab, after --")
    lessons = command(
        "lessons", _lessons_list, "show which of your lessons you have changed, or start some again", "userhooks lessons reset 03"
    )
    actions = lessons.add_subparsers(title="actions", metavar="ACTION")
    actions.add_parser("list", help="show which of your lessons you have changed (the default)").set_defaults(handler=_lessons_list)
    actions.add_parser("copy", help="make the missing copies, as userhooks lab does").set_defaults(handler=_lessons_copy)
    reset = actions.add_parser("reset", help="make fresh copies, and keep those that you changed under another name")
    reset.add_argument("lesson", nargs="*", metavar="LESSON", help="a number like 03, or a file name")
    reset.add_argument("--all", action="store_true", help="make fresh copies of all files")
    reset.set_defaults(handler=_lessons_reset, fail=reset.error)
    subscribe = command(
        "subscribe", _subscribe, "send a user's notifications to a URL", "userhooks subscribe 1 https://example.com/hooks/1"
    )
    subscribe.add_argument("user_id", type=int, metavar="USER_ID", help="id of a row in the table users")
    subscribe.add_argument("url", metavar="URL", help="URL that receives the webhooks")
    unsubscribe = command("unsubscribe", _unsubscribe, "end a subscription", "userhooks unsubscribe user-1-notifications")
    unsubscribe.add_argument("sink", metavar="SINK", help="name of the subscription's sink, as listed by userhooks subscriptions")
    command("subscriptions", _subscriptions, "list the subscriptions", "userhooks subscriptions")
    backfill = command(
        "backfill", _backfill, "send all current rows of a subscription's user again", "userhooks backfill user-1-notifications --wait"
    )
    backfill.add_argument("sink", metavar="SINK", help="name of the subscription's sink")
    backfill.add_argument("--wait", action="store_true", help="wait until the last row has been read")
    generate = command(
        "generate", _generate, "write notifications for random users at a steady rate", "userhooks generate --rate 100 --seconds 10"
    )
    generate.add_argument("--rate", type=float, default=100, metavar="N", help="rows per second, 1 to 100,000 (default: 100)")
    end = generate.add_mutually_exclusive_group()
    end.add_argument("--seconds", type=float, metavar="S", help="duration in seconds (default: until Ctrl-C)")
    end.add_argument("--count", type=int, metavar="N", help="number of rows")
    generate.add_argument("--mix", metavar="MIX", help="weights like insert=8,update=1,delete=1 (default: inserts only)")
    generate.add_argument("--seed", type=int, metavar="N", help="seed for repeatable choices")
    inbox = command("inbox", _inbox, "list the inboxes, or create or show one", "userhooks inbox ada")
    inbox.add_argument("name", nargs="?", metavar="NAME", help="name of the inbox, which is created if it does not exist")
    listen = command(
        "listen",
        _listen,
        "forward an inbox's new requests to a web server on this machine",
        "userhooks listen --forward-to http://localhost:3000/hooks",
    )
    listen.add_argument("--forward-to", required=True, metavar="URL", help="http:// URL on this machine")
    listen.add_argument("--inbox", default="listen", metavar="NAME", help="name of the inbox, created if necessary (default: listen)")
    command("ledger", _ledger, "compare the committed rows with what the inboxes received", "userhooks ledger")
    command("doctor", _doctor, "check everything that can go wrong, and say what to do", "userhooks doctor")
    demo = command("demo", _demo, "subscribe, generate, and backfill, then print the ledger's verdict", "userhooks demo --rate 100")
    demo.add_argument("--rate", type=float, default=100, metavar="N", help="rows per second (default: 100)")
    demo.add_argument("--seconds", type=float, default=10, metavar="S", help="duration in seconds (default: 10)")
    return parser


# --- the stack ---------------------------------------------------------------------------------------------------------


@contextmanager
def _stack_while() -> Iterator[Stack]:
    """Yield the stack for the duration of the block, and stop it afterwards if this command started it.

    A signal that arrives during startup is delayed until the stack can be stopped again.
    """
    from userhooks.stack.stack import Stack

    delayed: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    active = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in active:
        signal.signal(number, lambda number, _: delayed.append(number))
    stack = Stack.start()
    try:
        for number, handler in active.items():
            signal.signal(number, handler)
        for delayed_number in delayed:
            signal.raise_signal(delayed_number)
        yield stack
    finally:
        if stack.started:
            _print_note(stack.stop())


def _up(arguments: argparse.Namespace) -> int:
    from userhooks.stack.stack import Stack

    if arguments.detach:
        stack = Stack.start()
        _restore_filter(stack)
        _print_status(stack.status())
        return 0
    with _stack_while() as stack:
        _restore_filter(stack)
        _print_status(stack.status())
        if not stack.started:
            print("The stack was already running. Stop it with userhooks down.")
            return 0
        print("Press Ctrl-C to stop it.", flush=True)
        stack.wait()
        print("The stack was stopped by another command.")
    return 0


def _restore_filter(stack: Stack) -> None:
    """Restore the filter function if somebody changed it. A missing function is created by the first subscription.

    If this command has just started the engine, the function is not checked, because that would take a third of the startup time. An error
    that advises `userhooks up` to restore the function is always about a running stack.
    """
    if stack.started and stack.settings.sequin_url is None:
        return
    if stack.subscriptions.function_state() == "different":
        stack.subscriptions.restore_function()
        print("The filter function in Sequin had been changed, so users may have been sent other users' rows. It has been restored.")


def _down(_arguments: argparse.Namespace) -> int:
    from userhooks.settings import Settings
    from userhooks.stack.stack import stop_stack

    _print_note(stop_stack(Settings.from_env()))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from userhooks.settings import Settings
    from userhooks.stack.stack import full_status

    status = full_status(Settings.from_env())
    if arguments.json:
        print(json.dumps(status.as_json(), indent=2))
    else:
        _print_status(status)
    return 0 if status.ready else 1


def _print_status(status: StackStatus, pages: str = "pages for a browser") -> None:
    from userhooks.stack.stack import page_links, private_addresses, without_password
    from userhooks.stack.status import PARTS

    print(f"{'ready' if status.ready else 'not ready'}  home {status.home}")
    for name in PARTS:
        part = status.part(name)
        states = {"running": f"pid {part.pid}", "down": "down", "external": "not ours"}
        print(f"  {name:<10} {states[status.state(name)]:<12} {without_password(part.url or 'not created yet')}")
    if links := page_links(status):
        print(f"  {pages}; these links work for an hour:")
        for page, link in links.items():
            print(f"    {page:<10} {link}")
    print(f"  {private_addresses(status)}")
    if status.sequin.slot is not None:
        _print_separate_sequin(status.sequin, status.sequin.slot)
    if status.sequin.filter_function is not None:
        print("  WRONG: The filter function in Sequin was changed, so users may be sent rows of others. userhooks up puts it back.")


def _print_separate_sequin(sequin: SequinStatus, slot: SlotStatus) -> None:
    sinks = ", ".join(f"{count} {state}" for state, count in sorted((sequin.sinks or {}).items()))
    lag = "is missing, so nothing is sent: run userhooks doctor" if slot.behind is None else f"is {slot.behind:,} bytes of WAL behind"
    print(f"  Sequin {sequin.version}; our sinks: {sinks or 'none'}; the slot {slot.name} {lag}")


def _lab(arguments: argparse.Namespace) -> int:
    from userhooks import lab
    from userhooks.shared.extras import not_installed

    if find_spec("jupyterlab") is None:
        raise not_installed("JupyterLab")
    with _stack_while() as stack:
        _print_status(stack.status(), pages="other pages")
        return lab.run(stack, arguments.jupyter, browser=not arguments.no_browser)


# --- lessons -----------------------------------------------------------------------------------------------------------


def _lessons_list(_arguments: argparse.Namespace) -> int:
    from userhooks.lessons.copies import Copies

    copies = Copies.of(Path.cwd())
    print(f"Your lessons in {copies.folder}")
    for state in copies.states():
        print(f"  {state.name:<32} {state}")
    return 0


def _lessons_copy(_arguments: argparse.Namespace) -> int:
    from userhooks.lessons.copies import Copies

    copies = Copies.of(Path.cwd())
    copies.copy()
    return _lessons_list(_arguments)


def _lessons_reset(arguments: argparse.Namespace) -> int:
    from userhooks.lessons.copies import Copies

    if bool(arguments.lesson) == arguments.all:
        arguments.fail("name a lesson, like 03, or --all for all of them")
    copies = Copies.of(Path.cwd())
    reset = copies.reset(arguments.lesson)
    for fresh in reset:
        print(f"{fresh.name}: a fresh copy." + (f" Yours is now {fresh.kept}." if fresh.kept else ""))
    if copies.is_in_use:
        print(f"If {'it' if len(reset) == 1 else 'one of them'} is open in JupyterLab, choose File > Reload Notebook from Disk.")
    return 0


# --- subscriptions -----------------------------------------------------------------------------------------------------


def _subscribe(arguments: argparse.Namespace) -> int:
    from userhooks.stack.stack import Stack

    subscription = Stack.attach().subscriptions.subscribe(arguments.user_id, arguments.url)
    print(f"{'New' if subscription.created else 'Known'} sink {subscription.sink_name} ({subscription.sink_id})")
    print(f"  user {subscription.user_id}, to {subscription.url}")
    if subscription.created and subscription.secret:
        print(f"  webhooks carry: Authorization: Bearer {subscription.secret}")
    return 0


def _unsubscribe(arguments: argparse.Namespace) -> int:
    from userhooks.stack.stack import Stack

    Stack.attach().subscriptions.unsubscribe(arguments.sink)
    print(f"Removed {arguments.sink}.")
    return 0


def _subscriptions(_arguments: argparse.Namespace) -> int:
    from userhooks.stack.stack import Stack

    subscriptions = Stack.attach().subscriptions.list()
    for subscription in subscriptions:
        print(f"{subscription.sink_name}  user {subscription.user_id}, to {subscription.url}")
    if not subscriptions:
        print("There are no subscriptions. Create one with: userhooks subscribe USER_ID URL")
    return 0


def _backfill(arguments: argparse.Namespace) -> int:
    from userhooks.stack.stack import Stack

    handle = Stack.attach().subscriptions.backfill(arguments.sink)
    print(f"Backfill {handle.id} of {handle.sink_name}: {handle.state}", flush=True)
    if arguments.wait:
        handle.wait()
        print(f"Backfill {handle.id} of {handle.sink_name}: {handle.state}")
        return 0 if handle.state == "completed" else 1
    return 0


# --- traffic and verdicts ----------------------------------------------------------------------------------------------


def _generate(arguments: argparse.Namespace) -> int:
    from userhooks.lessons.generator import generate, parse_mix
    from userhooks.stack.stack import Stack

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    mix = None if arguments.mix is None else parse_mix(arguments.mix)
    generated = generate(
        Stack.attach().database_url, rate=arguments.rate, seconds=arguments.seconds, count=arguments.count, mix=mix, seed=arguments.seed
    )
    print(generated.summary())
    return 0


def _inbox(arguments: argparse.Namespace) -> int:
    from userhooks.stack.stack import Stack

    inspector = Stack.attach().inspector
    if arguments.name is None:
        for inbox in inspector.inboxes():
            print(f"{inbox.name}  {inbox.count()} requests, {inbox.url}")
        return 0
    inbox = inspector.inbox(arguments.name)
    print(f"{inbox.name}\n  send to {inbox.url}\n  read at {inbox.page}\n  {inbox.count()} requests")
    return 0


def _listen(arguments: argparse.Namespace) -> int:
    from userhooks.inspector.forwarding import forward, parse_target
    from userhooks.stack.stack import Stack

    target = parse_target(arguments.forward_to)
    inbox = Stack.attach().inspector.inbox(arguments.inbox)
    print(f"Forwarding new requests of the inbox {inbox.name} to {target.url}\n  send to {inbox.url}\n  read at {inbox.page}")
    print("  Senders get the inbox's answer, not your server's. Nothing is retried. Press Ctrl-C to stop.", flush=True)
    forward(inbox, target, lambda line: print(line, flush=True))
    return 0


def _ledger(_arguments: argparse.Namespace) -> int:
    from userhooks.lessons.lesson import stack_ledger
    from userhooks.stack.stack import Stack

    ledger = stack_ledger(Stack.attach().clients)
    for problem in ledger.problems():
        print(problem)
    print(ledger.verdict())
    return 0 if ledger.ok else 1


def _demo(arguments: argparse.Namespace) -> int:
    from userhooks.demo import run

    with _stack_while() as stack:
        return 0 if run(stack, rate=arguments.rate, seconds=arguments.seconds) else 1


def _doctor(_arguments: argparse.Namespace) -> int:
    from userhooks.settings import Settings
    from userhooks.stack.doctor import examine

    findings = list(examine(Settings.from_env()))
    for finding in findings:
        print(finding)
    return 0 if all(finding.fine for finding in findings) else 1


def _print_note(text: str) -> None:
    if text:
        print(text)


if __name__ == "__main__":
    sys.exit(main())
