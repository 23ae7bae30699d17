"""Counts by server-sent events, each when it is told to, and echoes by WebSocket. Listens on loopback alone."""

import base64, hashlib, http.server, struct, threading
go = threading.Semaphore(0)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass
    def do_GET(self):
        if self.path == '/go':
            go.release()
            self.send_response(204); self.end_headers()
        elif self.path == '/events':
            self.send_response(200)
            self.send_header('Content-Type', 'text/event-stream'); self.send_header('Transfer-Encoding', 'chunked')
            self.end_headers()
            for number in range(3):
                if number: go.acquire()
                event = b'data: %d\n\n' % number
                self.wfile.write(b'%x\r\n%s\r\n' % (len(event), event)); self.wfile.flush()
            self.wfile.write(b'0\r\n\r\n')
        elif self.path == '/ws':
            key = self.headers['Sec-WebSocket-Key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            self.send_response(101)
            for pair in [('Connection', 'Upgrade'), ('Upgrade', 'websocket'), ('Sec-WebSocket-Accept', accept)]:
                self.send_header(*pair)
            self.end_headers()
            while True:
                head = self.rfile.read(2)
                if len(head) < 2: return
                length = head[1] & 127
                if length == 126: length, = struct.unpack('>H', self.rfile.read(2))
                mask = self.rfile.read(4)
                data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(length)))
                size = bytes([length]) if length < 126 else bytes([126]) + struct.pack('>H', length)
                self.wfile.write(head[:1] + size + data); self.wfile.flush()
                if head[0] & 15 == 8: self.close_connection = True; return
        else:
            self.send_response(204); self.end_headers()
http.server.ThreadingHTTPServer(('127.0.0.1', 9000), Handler).serve_forever()
