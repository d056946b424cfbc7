// Made of web/console/login.html by scripts/embed-console.py: change that one.

/// The page that asks for a token.
enum ConsoleLoginHTML {
  static let text = ##"""
    <!doctype html>
    <html lang="en">
    <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <title>Holdfast console: sign in</title>
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="/console/console.css">
    </head>
    <body class="login">
    <main class="card">
    <h1>Holdfast console</h1>
    {{problem}}
    <form method="post" action="/console/login">
    <label for="token">Token with the role admin</label>
    <input id="token" name="token" type="password" required autofocus autocomplete="current-password" spellcheck="false">
    <button type="submit">Sign in</button>
    </form>
    {{warning}}
    <p class="note">The token is kept nowhere: this browser gets a session of eight hours, which ends with the token.</p>
    </main>
    </body>
    </html>

    """##
}
