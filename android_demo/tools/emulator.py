"""Drives the app on an emulator, as a user would: `emulator.py DEBUG RELEASE BUNDLE CHAT PTE SCREENSHOTS`.

DEBUG and RELEASE are APKs of the flavour `full`, the second one minified and signed with the debug key. BUNDLE and
PTE are exports of helium-tiny for the two runtimes, CHAT one of helium-tiny-chat. Every step waits for what the
screen must show, and leaves a screenshot; the first that does not come ends the run with what was there instead.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

APP = "dev.heliumedge.app"
WAIT_SECONDS = 120.0


def main(debug: str, release: str, bundle: str, chat: str, pte: str, screenshots: str) -> None:
    """Install, both runtimes, text, rotation, benchmark, chat, kill, looks and import; then the minified build."""
    out = Path(screenshots)
    out.mkdir(exist_ok=True)
    install(debug)
    self_test(out, pte, "ExecuTorch")
    self_test(out, bundle, "ONNX Runtime")
    write("The device")
    tap("run")
    step(out, "text", lambda: None, shows("stats", "tokens/s"))
    step(out, "rotation", lambda: rotate(1), turned(1) + shows("output", "The device"))
    step(out, "upright", lambda: rotate(0), turned(0) + shows("output", "The device"))
    host("bench", bundle, "--adb", "--context", "64", "--prefill", "32", "--repeats", "1")
    # The model that was loaded for it, with other settings than the user's, is gone behind it.
    step(out, "bench", lambda: None, shows("output", "phone-bench") + shows("facts", "was loaded last"))
    come_back_by_recents(out)
    dialogs(out, bundle)
    conversation(out, chat)
    tap("run")  # an answer, in the middle of which the process ends
    adb("shell", f"am force-stop {APP}")
    start()
    step(out, "kill", lambda: None, shows("facts", f"{Path(chat).name} was loaded last"))
    looks(out)
    import_through_the_picker(out, bundle)
    adb("uninstall", APP)
    install(release)
    self_test(out, pte, "ExecuTorch", "minified-")
    self_test(out, bundle, "ONNX Runtime", "minified-")
    sys.stdout.write(f"all steps passed; screenshots in {out}" + "\n")


def install(apk: str) -> None:
    """Install an APK, and answer what it would ask."""
    adb("install", "-r", apk)
    adb("shell", f"pm grant {APP} android.permission.POST_NOTIFICATIONS", check=False)


def start() -> None:
    """Open the app from its icon."""
    adb(
        "shell",
        f"am start -W -a android.intent.action.MAIN -c android.intent.category.LAUNCHER -n {APP}/.MainActivity",
    )


def self_test(out: Path, bundle: str, runtime: str, prefix: str = "") -> None:
    """Push a bundle, and replay what its exporter recorded."""
    name = prefix + runtime.split()[0].lower()
    step(out, f"{name}-pushed", lambda: host("push", bundle), shows("facts", f"on {runtime}"))
    tap("self_test")
    step(
        out,
        f"{name}-self-test",
        lambda: None,
        shows("output", f"on {runtime}") + shows("output", "choices as recorded"),
    )


def come_back_by_recents(out: Path) -> None:
    """The order of a measurement is for once: a task that is opened again from the list does not measure again."""
    adb("shell", "input keyevent BACK")
    adb("shell", "input keyevent APP_SWITCH")
    wait(r'package="(?!dev\.heliumedge)[^"]*(?:launcher|quickstep|systemui)')
    adb("shell", "input keyevent APP_SWITCH")  # to the task before
    step(out, "recents", lambda: None, rf'resource-id="{APP}:id/open"')
    time.sleep(5)
    if f'resource-id="{APP}:id/busy"' in screen():
        sys.exit("the benchmark runs again after the app was opened from the list of recent ones")


def dialogs(out: Path, bundle: str) -> None:
    """What is asked outlives a turned screen; another app's order is none."""
    name = Path(bundle).name
    tap("open")
    step(out, "open", lambda: None, rf'text="{re.escape(name)}, [^"]*B"')
    step(out, "open-turned", lambda: rotate(1), turned(1) + rf'(?=.*text="{re.escape(name)}, )')
    rotate(0)
    tap_text(rf"{re.escape(name)}, .*")
    step(out, "opened", lambda: None, shows("facts", "onnx-int4 on ONNX Runtime"))
    for view, word in (("settings", "Seed"), ("report", "want to add"), ("about", "Licence")):
        tap(view)
        step(out, view, lambda: None, rf'text="[^"]*(?i:{word})')
        adb("shell", "input keyevent BACK")
    adb("shell", f"am start -W -n {APP}/.MainActivity --es bundle no-such")
    step(out, "no-order", lambda: None, shows("facts", "onnx-int4 on ONNX Runtime"))


def conversation(out: Path, chat: str) -> None:
    """A turn of a conversation, and one that is not edited after all."""
    host("push", chat)
    step(out, "chat-loaded", lambda: None, shows("facts", "chat-onnx-int4 on ONNX Runtime"))
    tap("chat")
    write("Hello")
    tap("run")
    step(out, "chat", lambda: None, shows("output", r"Model: \S", pattern=True))
    tap("edit")
    tap_text(".*Hello.*")
    step(out, "edit", lambda: None, shows("prompt", "Hello"))
    tap("edit")
    step(out, "edit-not", lambda: None, shows("output", "You: Hello"))
    write("And again")


def looks(out: Path) -> None:
    """Dark, German and in large letters: everything that is tapped is still reached."""
    adb("shell", "cmd uimode night yes")
    step(out, "dark", lambda: None, rf'resource-id="{APP}:id/open"')
    adb("shell", f"cmd locale set-app-locales {APP} --locales de")
    step(out, "german", lambda: None, 'text="(?i:Einstellungen)"')
    adb("shell", "settings put system font_scale 2.0")
    tap("settings")
    step(out, "large", lambda: None, 'text="(?i:Speichern)"')
    adb("shell", "input keyevent BACK")
    adb("shell", "settings put system font_scale 1.0")
    adb("shell", f"cmd locale set-app-locales {APP} --locales en")
    adb("shell", "cmd uimode night no")
    step(out, "light", lambda: None, 'text="(?i:Settings)"')


def import_through_the_picker(out: Path, bundle: str) -> None:
    """Copy a bundle from Download with the system's own screen."""
    adb("push", bundle, "/sdcard/Download/imported")
    tap("import_bundle")
    wait("(?i:use this folder|download)")
    if "imported" not in screen():  # the picker opens where it was last, at first with the device's folders
        tap_text("Downloads?")
    tap_text("imported")
    tap_text("(?i:use this folder)")
    tap_text("(?i:allow)")
    step(
        out,
        "import",
        lambda: None,
        shows("facts", "imported on ONNX Runtime|onnx-int4 on ONNX Runtime", pattern=True),
    )


def shows(view: str, text: str, *, pattern: bool = False) -> str:
    """Matches a screen on which a view has a text: elsewhere the same word may stand in a field or in an id."""
    words = text if pattern else re.escape(text)
    return rf'(?=.*<node[^>]*text="[^"]*(?:{words})[^"]*"[^>]*resource-id="{APP}:id/{view}")'


def turned(quarter: int) -> str:
    """Matches a screen that is turned."""
    return rf'(?=.*<hierarchy rotation="{quarter}")'


def step(out: Path, name: str, act: object, expected: str) -> None:
    """Do something and wait for what the screen must show."""
    if callable(act):
        act()
    try:
        wait(expected)
    finally:
        (out / f"{name}.png").write_bytes(picture())
    sys.stdout.write(f"{name}: {expected}" + "\n")


def picture() -> bytes:
    """The screen as PNG."""
    return subprocess.run(["adb", "exec-out", "screencap", "-p"], capture_output=True, check=False).stdout


def host(*words: str) -> None:
    """A command of this package."""
    subprocess.run(["helium-edge", *words], check=True)


def adb(*words: str, check: bool = True) -> str:
    """A command of adb."""
    return subprocess.run(["adb", *words], check=check, capture_output=True, text=True).stdout


def screen() -> str:
    """What the screen shows, as XML."""
    # It gives up while text streams; the file of the time before must not stand for it.
    adb("shell", "rm -f /sdcard/screen.xml; uiautomator dump /sdcard/screen.xml", check=False)
    return adb("shell", "cat /sdcard/screen.xml", check=False)


def wait(pattern: str) -> str:
    """The screen once it shows a text."""
    end = time.monotonic() + WAIT_SECONDS
    shown = ""
    while time.monotonic() < end:
        shown = screen()
        if re.search(pattern, shown, re.DOTALL):
            return shown
        time.sleep(1)
    sys.exit(f"the screen never showed {pattern!r}, but\n{shown}")


def write(text: str) -> None:
    """Put a text into the field, and the keyboard away."""
    tap("prompt")
    adb("shell", f"input text {text.replace(' ', '%s')}")
    adb("shell", "input keyevent 111")


def tap(view: str) -> None:
    """Tap a view by its id, once it is enabled; what lies above or below the screen is scrolled to."""
    top(view)
    tap_at(wait(rf'resource-id="{APP}:id/{view}"[^>]*enabled="true"'), rf'resource-id="{APP}:id/{view}"')


def top(view: str) -> None:
    """Bring a view onto the screen: only what is seen is listed."""
    for towards in ("400 1800", "1800 400"):
        for _ in range(6):
            if f'resource-id="{APP}:id/{view}"' in screen():
                return
            begin, end = towards.split()
            adb("shell", f"input swipe 500 {begin} 500 {end} 200")


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
