// Receives messages with npm node-hl7-server: PORT FILE; a line of JSON in FILE for each.

const fs = require('fs')
const { Server } = require('node-hl7-server')

const [port, path] = [Number(process.argv[2]), process.argv[3]]
const server = new Server({ bindAddress: '127.0.0.1' })
server.createInbound({ port }, async (request, response) => {
  fs.appendFileSync(path, JSON.stringify(request.getMessage().toString()) + '\n')
  await response.sendResponse('AA')
})
