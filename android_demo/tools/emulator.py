"""Drives the app on an emulator, as a user would: `emulator.py APK BUNDLE CHAT SCREENSHOTS`.

BUNDLE and CHAT are exports of helium-tiny and of helium-tiny-chat. Every step waits for what the screen must show,
and leaves a screenshot; the first that does not come ends the run with what was there instead.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

APP = "dev.heliumedge.app"
WAIT_SECONDS = 120.0


def main(apk: str, bundle: str, chat: str, screenshots: str) -> None:
    """Install, self-test, text, chat, benchmark, rotation, kill and import."""
    out = Path(screenshots)
    out.mkdir(exist_ok=True)
    adb("install", "-r", apk)
    adb("shell", f"pm grant {APP} android.permission.POST_NOTIFICATIONS", check=False)
    step(out, "push", lambda: host("push", bundle), shows("facts", "onnx-int4 on ONNX Runtime"))
    tap("self_test")
    step(out, "self-test", lambda: None, shows("output", "choices as recorded"))
    tap("prompt")
    adb("shell", "input text The%sdevice")
    adb("shell", "input keyevent 111")
    tap("run")
    step(out, "text", lambda: None, shows("stats", "tokens/s"))
    step(out, "rotation", lambda: rotate(1), shows("output", "The device"))
    step(out, "upright", lambda: rotate(0), shows("output", "The device"))
    host("bench", bundle, "--adb", "--context", "64", "--prefill", "32", "--repeats", "1")
    step(out, "bench", lambda: None, shows("output", "phone-bench"))
    host("push", chat)
    step(out, "chat-loaded", lambda: None, shows("facts", "chat-onnx-int4 on ONNX Runtime"))
    tap("chat")
    tap("prompt")
    adb("shell", "input text Hello")
    adb("shell", "input keyevent 111")
    tap("run")
    step(out, "chat", lambda: None, shows("output", "You: Hello"))
    tap("edit")
    tap_text("Hello")
    step(out, "edit", lambda: None, shows("prompt", "Hello"))
    tap("edit")
    step(out, "edit-not", lambda: None, shows("output", "You: Hello"))
    adb("shell", f"am force-stop {APP}")
    adb("shell", f"am start -W -n {APP}/.MainActivity")
    step(out, "kill", lambda: None, shows("facts", f"{Path(chat).name} was loaded last"))
    import_through_the_picker(out, bundle)
    sys.stdout.write(f"all steps passed; screenshots in {out}" + "\n")


def import_through_the_picker(out: Path, bundle: str) -> None:
    """Copy a bundle from Download with the system's own screen."""
    adb("push", bundle, "/sdcard/Download/imported")
    tap("import_bundle")
    wait("(?i)use this folder|download")
    if not re.search(r"(?i)imported", screen()):
        tap_text("Show roots")
        tap_text("Downloads|Download")
    tap_text("imported")
    tap_text("(?i)use this folder")
    tap_text("(?i)allow")
    step(out, "import", lambda: None, shows("facts", "onnx-int4 on ONNX Runtime"))


def shows(view: str, text: str) -> str:
    """Matches a screen on which a view has a text: elsewhere the same word may stand in a field or in an id."""
    return rf'<node[^>]*text="[^"]*{re.escape(text)}[^"]*"[^>]*resource-id="{APP}:id/{view}"'


def step(out: Path, name: str, act: object, expected: str) -> None:
    """Do something and wait for what the screen must show."""
    if callable(act):
        act()
    try:
        wait(expected)
    finally:
        picture = subprocess.run(["adb", "exec-out", "screencap", "-p"], capture_output=True, check=False).stdout
        (out / f"{name}.png").write_bytes(picture)
    sys.stdout.write(f"{name}: {expected}" + "\n")


def host(*words: str) -> None:
    """A command of this package."""
    subprocess.run(["helium-edge", *words], check=True)


def adb(*words: str, check: bool = True) -> str:
    """A command of adb."""
    return subprocess.run(["adb", *words], check=check, capture_output=True, text=True).stdout


def screen() -> str:
    """What the screen shows, as XML."""
    adb("shell", "uiautomator dump /sdcard/screen.xml", check=False)
    return adb("shell", "cat /sdcard/screen.xml", check=False)


def wait(pattern: str) -> str:
    """The screen once it shows a text."""
    end = time.monotonic() + WAIT_SECONDS
    shown = ""
    while time.monotonic() < end:
        shown = screen()
        if re.search(pattern, shown):
            return shown
        time.sleep(1)
    sys.exit(f"the screen never showed {pattern!r}, but\n{shown}")


def tap(view: str) -> None:
    """Tap a view by its id, once it is enabled."""
    tap_at(wait(rf'resource-id="{APP}:id/{view}"[^>]*enabled="true"'), rf'resource-id="{APP}:id/{view}"')


def tap_text(pattern: str) -> None:
    """Tap what reads or is described so."""
    words = rf'(?:text|content-desc)="(?:{pattern})"'
    tap_at(wait(words), words)


def tap_at(shown: str, pattern: str) -> None:
    node = next(node for node in re.findall(r"<node[^>]*>", shown) if re.search(pattern, node))
    left, top, right, bottom = map(int, re.findall(r"\d+", node.split('bounds="')[1])[:4])
    adb("shell", f"input tap {(left + right) // 2} {(top + bottom) // 2}")


def rotate(quarter: int) -> None:
    """Turn the screen."""
    adb("shell", "settings put system accelerometer_rotation 0")
    adb("shell", f"settings put system user_rotation {quarter}")


if __name__ == "__main__":
    main(*sys.argv[1:])
